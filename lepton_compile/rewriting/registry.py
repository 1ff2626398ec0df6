"""The registry of passes: an entry-point group that the built-in passes and a vendor's join alike."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from lepton_compile.errors import LeptonError, PassError
from lepton_compile.rewriting.passes import Pass, Stage

GROUP = "lepton_compile.passes"


@dataclass(frozen=True)
class RegisteredPass:
    """What `lepton passes` shows of a pass.

    Attributes:
        name: The pass's name.
        distribution: The installed package that brings it.
        stage: When it runs; None when it cannot be loaded.
        exact: Whether it keeps the model's values; see `Pass.exact`.
        after: The passes that go first.
        settings: The default settings.
        summary: The first line of its docstring.
        error: Why it cannot be loaded; empty when it can.
    """

    name: str
    distribution: str
    stage: Stage | None = None
    exact: bool = True
    after: tuple[str, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    summary: str = ""
    error: str = ""


def list_passes() -> list[RegisteredPass]:
    """Every registered pass, by name; one that cannot be loaded is listed with its error."""
    return [_describe(point) for point in _entry_points()]


def registered_passes() -> dict[str, type[Pass]]:
    """The class of every registered pass, by name.

    Raises:
        PassError: A registered pass cannot be loaded, is no proper pass, or two packages register the same name.
    """
    points = _entry_points()
    for one, other in itertools.pairwise(points):
        if one.name == other.name:
            packages = f"'{_distribution(one)}' and '{_distribution(other)}'"
            raise PassError(one.name, f"is registered twice, by {packages}; uninstall one of them")
    return {point.name: _load(point) for point in points}


def create_pass(text: str, classes: Mapping[str, type[Pass]] | None = None) -> Pass:
    """Make the pass that `text` describes: `name`, or `name{field=value, other=value}` with values in JSON.

    Args:
        text: What `str(a_pass)` prints.
        classes: The passes to choose from; None takes the registered ones.

    Raises:
        LeptonError: The text is malformed, or no such pass or setting exists.
    """
    match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\{(.*)\})?\s*", text, re.DOTALL)
    if match is None:
        raise LeptonError(f"'{text}' does not describe a pass; write it as name or name{{field=value}}", text=text)
    return configure(match[1], _parse_settings(match[2] or "", text), classes)


def configure(name: str, settings: Mapping[str, object], classes: Mapping[str, type[Pass]] | None = None) -> Pass:
    """Make the pass of this name with these settings; the rest keep their defaults.

    Raises:
        LeptonError: No such pass or setting exists, or the pass refuses the settings.
    """
    classes = registered_passes() if classes is None else classes
    if name not in classes:
        near = difflib.get_close_matches(name, classes, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(classes))}"
        raise LeptonError(f"there is no pass '{name}'; {hint}", pass_name=name, nearest=tuple(near))
    fields = [field.name for field in dataclasses.fields(classes[name])]  # type: ignore[arg-type]
    if unknown := sorted(set(settings) - set(fields)):
        known = f"it has: {', '.join(fields)}" if fields else "it has none"
        raise LeptonError(f"pass '{name}' has no setting '{unknown[0]}'; {known}", pass_name=name, unknown=unknown)
    try:
        return classes[name](**{field: _tuples(value) for field, value in settings.items()})
    except Exception as error:
        raise LeptonError(f"pass '{name}' refuses its settings {dict(settings)}: {error}", pass_name=name) from error


def _parse_settings(body: str, text: str) -> dict[str, object]:
    """Read `field=value, other=value`; values are JSON, so they are found by decoding them and not by the commas."""
    decoder = json.JSONDecoder()
    settings: dict[str, object] = {}
    position = 0
    while position < len(body.rstrip()):
        match = re.compile(r"[\s,]*(\w+)\s*=\s*").match(body, position)
        try:
            if match is None:
                raise ValueError("expected field=value")
            settings[match[1]], position = decoder.raw_decode(body, match.end())
        except ValueError as error:
            raise LeptonError(
                f"the settings of '{text}' cannot be read ({error}); values are JSON", text=text
            ) from None
    return settings


def _tuples(value: object) -> object:
    """A JSON value as a field holds it: lists become tuples, so that passes stay hashable."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _entry_points() -> list[metadata.EntryPoint]:
    # A package that is installed twice on sys.path (a checkout and an installed copy) shows its entry points twice.
    unique = {(point.name, point.value, _distribution(point)): point for point in metadata.entry_points(group=GROUP)}
    return [unique[key] for key in sorted(unique)]


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else ""


def _load(point: metadata.EntryPoint) -> type[Pass]:
    """The class behind an entry point, once it is known to be a proper pass."""
    try:
        loaded: object = point.load()
    except Exception as error:
        raise PassError(
            point.name, f"of package '{_distribution(point)}' cannot be loaded ({type(error).__name__}: {error}); "
            "mend or uninstall it"
        ) from error  # fmt: skip
    if not (inspect.isclass(loaded) and issubclass(loaded, Pass) and dataclasses.is_dataclass(loaded)):
        raise PassError(point.name, f"'{point.value}' is not a dataclass derived from lepton_compile's Pass")
    if getattr(loaded, "name", None) != point.name or not isinstance(getattr(loaded, "stage", None), Stage):
        raise PassError(point.name, f"'{point.value}' needs name = '{point.name}' and a stage as class attributes")
    try:
        loaded()
    except Exception as error:
        raise PassError(point.name, f"cannot be made with its default settings: {error}") from error
    return loaded


def _describe(point: metadata.EntryPoint) -> RegisteredPass:
    try:
        loaded = _load(point)
    except PassError as error:
        return RegisteredPass(point.name, _distribution(point), error=str(error))
    summary = (inspect.getdoc(loaded) or "").split("\n", 1)[0]
    return RegisteredPass(
        point.name, _distribution(point), loaded.stage, loaded.exact, loaded.after, loaded().settings(), summary
    )
