"""What was measured on this machine, in the user's cache folder: a tuning file for each machine and version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock

from lepton_compile.tuning.table import TuningTable

if TYPE_CHECKING:
    from lepton_compile.target import Target


def cache_file(target: Target) -> Path | None:
    """Where measurements for a target are kept; None where the user has no home.

    They hold for its instruction set, caches and threads, and for the compiler that made the kernels: another one may
    have other algorithms to choose from.
    """
    facts = [
        target.describe()["cpu"],
        target.triple,
        sources(),
        importlib.metadata.version("apache-tvm"),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder()
    return None if folder is None else folder / "tuning" / f"{target.name}-{digest}.json"


def cache_folder() -> Path | None:
    """Where this package keeps what can be made again; None where the user has no home."""
    try:
        return Path(platformdirs.user_cache_dir("lepton_compile"))
    except RuntimeError:
        return None


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may be reading: they see the old one or the new one, nothing between.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)


@cache
def sources() -> str:
    """A hash of this package's code: its version does not change while it is worked on."""
    import lepton_compile.passes

    digest = hashlib.sha256()
    for package in (lepton_compile, lepton_compile.passes):
        for file in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def read_cache(path: Path) -> TuningTable:
    """The measurements in a cache file; none where there is no such file.

    A file that cannot be read is left behind with a warning, and replaced by the next measurements.
    """
    try:
        return TuningTable.from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return TuningTable()
    except (OSError, ValueError) as error:
        warnings.warn(f"the tuning cache {path} is ignored, and measured anew: {error}", stacklevel=2)
        return TuningTable()


def add_to_cache(path: Path, table: TuningTable) -> None:
    """Add measurements to a cache file, which other processes may be doing too; if it cannot be written, warn."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whoever asked for the cache was told
                merged = read_cache(path).merged(table)
            write_whole(path, json.dumps(merged.to_record(), indent=1, sort_keys=True))
    except OSError as error:
        warnings.warn(f"the tuning cache {path} cannot be written: {error}", stacklevel=2)
