"""Finding targets: this machine, the built-in ones, those of installed plugins, and files."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from lepton_compile.errors import TargetError
from lepton_compile.target.document import Settings, inherit, make_target, read_settings
from lepton_compile.target.host import sense_host
from lepton_compile.target.target import Target

GROUP = "lepton_compile.targets"
"""The entry-point group of plugins. An entry's value is a module; each .toml file in its folder is a target, named as
the file is. What the entry itself is called does not matter."""

_BUILT_IN = "lepton_compile.targets"
_HOST = "host"

_PROCESSOR = frozenset({"triple", "cpu.name", "cpu.features"})
"""The fields that tell LLVM what to make code for."""


def resolve_target(target: str | os.PathLike[str] | Mapping[str, object] | Target) -> Target:
    """The target that is meant.

    Args:
        target: "host" for this machine, the name of a built-in target or of a plugin's, a path that ends in .toml, the
            contents of such a file, or a Target.

    Raises:
        TargetError: There is no such target, or its file is wrong; names file and field.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Mapping):
        return _checked(read_settings(target, "the target"), "the target", Path(), "custom")
    if isinstance(target, str) and not _is_path(target):
        if target == _HOST:
            return sense_host()
        path = _locate(target, Path())
    else:
        path = _absolute(Path(target))
    return _checked(_read(path), str(path), path.parent, _stem(path))


def list_targets() -> list[Target]:
    """Every target that has a name: this machine where it can be sensed, then the others by name.

    Whether LLVM knows a plugin's processors is found out when they are resolved.

    Raises:
        TargetError: A file of a built-in target or a plugin is wrong.
    """
    try:
        found = [sense_host()]
    except TargetError:
        found = []
    for name, paths in sorted(_files().items()):
        for path in paths:
            settings, _ = _inherited(_read(path), path.parent, (str(path),))
            found.append(make_target({"name": name, **settings}, str(path)))
    return found


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text or os.sep in text


def _stem(path: Path) -> str:
    """A file's name as a target's name."""
    return re.sub(r"[^\w.+-]+", "-", path.stem, flags=re.ASCII).lstrip("-.+") or "custom"


def _checked(settings: Settings, source: str, folder: Path, name: str) -> Target:
    """The target that a document means, once LLVM knows the processor that it names."""
    complete, trusted = _inherited(settings, folder, (source,))
    target = make_target({"name": name, **complete}, source)
    if not trusted:
        try:
            target.enabled_features()
        except TargetError as error:
            raise TargetError(f"{source}: cpu: {error}", **{**error.facts, "path": source}) from error
    return target


def _inherited(settings: Settings, folder: Path, chain: tuple[str, ...]) -> tuple[Settings, bool]:
    """A document's settings with all that it extends; and whether only built-in targets had a say in its processor.

    Args:
        settings: The document's own.
        folder: What a path that it extends is relative to.
        chain: The documents that led here, this one being the last.
    """
    trusted = Path(chain[-1]).parent == _folder(_BUILT_IN) or settings.keys().isdisjoint(_PROCESSOR)
    if "extends" not in settings:
        return settings, trusted
    if settings["extends"] == _HOST:
        return inherit(read_settings(sense_host().describe(), _HOST), settings), trusted
    try:
        path = _locate(settings["extends"], folder)
        if str(path) in chain:
            raise TargetError(f"it comes back to itself: {' extends '.join((*chain, str(path)))}", chain=chain)
        above = _read(path)
    except TargetError as error:
        if error.facts.get("field"):
            raise
        facts = {**error.facts, "path": chain[-1], "field": "extends"}
        raise TargetError(f"{chain[-1]}: extends: {error}", **facts) from error
    complete, above_trusted = _inherited(above, path.parent, (*chain, str(path)))
    return inherit(complete, settings), trusted and above_trusted


def _locate(target: str, folder: Path) -> Path:
    """The file of a target that is named, or given by a path relative to a folder."""
    if _is_path(target):
        return _absolute(folder / target)
    files = _files()
    if target not in files:
        names = sorted((_HOST, *files))
        near = difflib.get_close_matches(target, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}, and files (NAME.toml)"
        raise TargetError(f"there is no target '{target}'; {hint}", target=target, nearest=tuple(near))
    first, *others = files[target]
    if others:
        raise TargetError(
            f"there is more than one target '{target}': {first} and {others[0]}; give the file that is meant, or "
            "uninstall a plugin",
            target=target,
            files=(first, *others),
        )
    return first


def _absolute(path: Path) -> Path:
    """A path by which a file is known again."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links, in the one or the other by Python's version
        raise TargetError(f"{path}: can not be read: {error}", path=str(path)) from error


def _read(path: Path) -> Settings:
    """A file's own settings."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise TargetError(f"{path}: can not be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise TargetError(
            f"{path}: is no TOML: TOML is UTF-8, and byte {error.start} is not", path=str(path)
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{path}: is no TOML: {error}", path=str(path)) from error
    return read_settings(document, str(path))


def _files() -> dict[str, list[Path]]:
    """The target files that are installed, by the target's name."""
    # A package that is on sys.path twice shows its entry points twice.
    modules = sorted({point.module for point in metadata.entry_points(group=GROUP)} - {_BUILT_IN})
    found: dict[str, list[Path]] = {}
    for module in (_BUILT_IN, *modules):
        for path in sorted(_folder(module).glob("*.toml")):
            found.setdefault(_stem(path), []).append(path)
    return found


def _folder(module: str) -> Path:
    """The folder of a package, or that a module is in; a plugin's module itself is not imported."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # a parent package of a plugin's fails to import, in whatever way
        raise TargetError(
            f"the plugin '{module}' of {GROUP} can not be found ({type(error).__name__}: {error}); mend it or "
            "uninstall it",
            plugin=module,
        ) from error
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise TargetError(f"the plugin '{module}' of {GROUP} is not installed; mend or uninstall it", plugin=module)
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(str(spec.origin)).resolve().parent
