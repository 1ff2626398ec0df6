"""A target file's contents: what may stand in it, how it inherits, and the `Target` that it makes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from lepton_compile.errors import TargetError
from lepton_compile.target.quantities import format_quantity, parse_quantity
from lepton_compile.target.target import PRECISIONS, Accelerator, Budget, Policy, Resources, Target

Settings = dict[str, Any]
"""The fields that a file sets, by dotted name ("cpu.cores"), as the values they stand for."""

_KINDS = ("llvm",)
_TRIPLES = tuple(
    f"{architecture}-linux-{library}"
    for architecture in ("x86_64", "aarch64", "riscv64")
    for library in ("gnu", "musl")
)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("must be a line of text")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]*", value, re.ASCII):
        raise ValueError("must be a name of letters, digits and any of . + - _")
    return value


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return check


def _features(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError('must be a list such as ["+dotprod", "-aes"]')
    signs: dict[str, str] = {}
    for feature in value:
        if not re.fullmatch(r"[+-][A-Za-z0-9][A-Za-z0-9._-]*", feature):
            raise ValueError(
                f'has \'{feature}\'; write "+NAME" for a feature that is there, "-NAME" for one that is not'
            )
        if signs.setdefault(feature[1:], feature[0]) != feature[0]:
            raise ValueError(f"says both +{feature[1:]} and -{feature[1:]}")
    return tuple(signs[name] + name for name in sorted(signs))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
        raise ValueError("must be a whole number from 1 to 4096")
    return value


def _whole(kind: str, least: int = 1) -> Callable[[object], int]:
    def check(value: object) -> int:
        amount = parse_quantity(value, kind)
        if amount.denominator != 1:
            raise ValueError(f"must be a whole number of {kind}")
        if amount < least:
            raise ValueError("must be more than nothing")
        return int(amount)

    return check


def _latency(value: object) -> float:
    amount = parse_quantity(value, "seconds")
    if not amount:
        raise ValueError("must be more than nothing")
    return float(amount)


def _precision(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or len(set(map(str, value))) < len(value):
        raise ValueError('must be a list such as ["int8", "float32"], each once')
    return tuple(map(_one_of(PRECISIONS), value))


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1; 0.01 is one point in a hundred")
    return float(value)


_FIELDS: dict[str, Callable[[object], object]] = {
    "extends": _text,
    "name": _name,
    "description": _text,
    "kind": _one_of(_KINDS),
    "triple": _one_of(_TRIPLES),
    "cpu.name": _name,
    "cpu.features": _features,
    "cpu.cores": _count,
    "cpu.threads": _count,
    "cpu.frequency": _whole("hertz"),
    "cpu.multiply_adds": _count,
    "cpu.l1d": _whole("bytes"),
    "cpu.l2": _whole("bytes"),
    "cpu.l3": _whole("bytes", least=0),
    "memory.size": _whole("bytes"),
    "memory.bandwidth": _whole("bytes per second"),
    "policy.precision": _precision,
    "policy.max_drop": _share,
    "budget.latency": _latency,
    "budget.memory": _whole("bytes"),
    "budget.size": _whole("bytes"),
    "accelerator.name": _text,
    "accelerator.memory": _whole("bytes"),
}
_LISTED = "accelerator"
"""The table that there may be several of: [[accelerator]]. In `Settings` it is one field, a tuple."""
_TABLES = tuple(dict.fromkeys(field.partition(".")[0] for field in _FIELDS if "." in field))


def read_settings(document: Mapping[str, object], source: str) -> Settings:
    """Check one document by itself.

    Args:
        document: As the TOML reader gives it.
        source: What to call it in errors.

    Raises:
        TargetError: Names the field that is unknown or holds what it can not.
    """
    given: dict[str, object] = {}
    listed: dict[str, tuple[Accelerator, ...]] = {}
    for key, value in document.items():
        if key == _LISTED:
            listed[key] = _accelerators(value, source)
        elif key in _TABLES:
            if not isinstance(value, Mapping):
                raise TargetError(
                    f"{source}: '{key}' is a table; write its fields under [{key}]", path=source, field=key
                )
            given |= _dotted(key, value)
        else:
            given[str(key)] = value
    return _checked(given, source) | listed


def _dotted(table: str, fields: Mapping[str, object]) -> dict[str, object]:
    return {f"{table}.{name}": value for name, value in fields.items()}


def _accelerators(value: object, source: str) -> tuple[Accelerator, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise TargetError(
            f"{source}: '{_LISTED}' is a list of tables; begin each with [[{_LISTED}]]", path=source, field=_LISTED
        )
    found = []
    for item in value:
        fields = _checked(_dotted(_LISTED, item), source)
        if not fields.get(f"{_LISTED}.name"):
            raise TargetError(
                f"{source}: {_LISTED}.name is missing; say what the accelerator is called",
                path=source,
                field=f"{_LISTED}.name",
            )
        found.append(Accelerator(fields[f"{_LISTED}.name"], fields.get(f"{_LISTED}.memory")))
    return tuple(found)


def _checked(given: Mapping[str, object], source: str) -> Settings:
    """The values of fields by dotted name."""
    settings: Settings = {}
    for name, value in given.items():
        if name not in _FIELDS:
            raise TargetError(f"{source}: there is no field '{name}'{_nearest(name, value)}", path=source, field=name)
        try:
            settings[name] = _FIELDS[name](value)
        except ValueError as error:
            raise TargetError(
                f"{source}: {name} {error}, not {value!r}", path=source, field=name, value=value
            ) from error
    return settings


def _nearest(name: str, value: object) -> str:
    if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        near = difflib.get_close_matches(name, _TABLES, n=1)
        tables = ", ".join(map(_heading, _TABLES))
        return f"; did you mean {_heading(near[0])}?" if near else f"; the tables are {tables}"
    # A field in the wrong table is as likely as a slip of the pen.
    table, _, last = name.rpartition(".")
    close = difflib.get_close_matches(last, [field.rpartition(".")[2] for field in _FIELDS], n=1)
    near = [field for field in _FIELDS if [field.rpartition(".")[2]] == close]
    near = [field for field in near if field.rpartition(".")[0] == table] or near
    siblings = [field for field in _FIELDS if field.rpartition(".")[0] == table]
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(siblings)}"


def _heading(table: str) -> str:
    return f"[[{table}]]" if table == _LISTED else f"[{table}]"


def inherit(parent: Settings, child: Settings) -> Settings:
    """What a file means that extends another: its own fields, and the parent's where it has none.

    Features add up. What describes another file's processor is not inherited past a new name for it, nor the number of
    threads past a new number of cores. Name and description are a file's own. Accelerators are one field.
    """
    kept = {name: value for name, value in parent.items() if name not in ("extends", "name", "description")}
    if "cpu.cores" in child:
        kept.pop("cpu.threads", None)
    if any(child.get(name, kept.get(name)) != kept.get(name) for name in ("triple", "cpu.name")):
        kept.pop("cpu.features", None)
        kept.pop("cpu.multiply_adds", None)
    merged = {**kept, **child}
    if "cpu.features" in kept and "cpu.features" in child:
        signs = {feature[1:]: feature[0] for feature in (*kept["cpu.features"], *child["cpu.features"])}
        merged["cpu.features"] = tuple(signs[name] + name for name in sorted(signs))
    return merged


# What can not be larger than what. The memory that control groups leave to a process may be smaller than a server's
# level-3 cache, but not than the caches of a core.
_BOUNDS = (("cpu.l1d", "memory.size"), ("cpu.l2", "memory.size"), ("budget.memory", "memory.size"))


def _check_bounds(settings: Settings, source: str) -> None:
    for name, bound in _BOUNDS:
        if name in settings and bound in settings and settings[name] > settings[bound]:
            amount, most = format_quantity(settings[name], "bytes"), format_quantity(settings[bound], "bytes")
            raise TargetError(
                f"{source}: {name} is {amount}, more than {bound}, which is {most}; change one of them",
                path=source,
                field=name,
                value=settings[name],
            )


def make_target(settings: Settings, source: str) -> Target:
    """The target that complete settings describe.

    Raises:
        TargetError: Names a field without which there is no target, or two that contradict each other.
    """
    for name in ("triple", "cpu.name", "cpu.cores"):
        if name not in settings:
            raise TargetError(
                f"{source}: {name} is missing; set it, or extend a target that has it", field=name, path=source
            )

    _check_bounds(settings, source)

    def present(**fields: str) -> dict[str, Any]:
        return {key: settings[name] for key, name in fields.items() if name in settings}

    return Target(
        **present(
            name="name",
            triple="triple",
            cpu="cpu.name",
            features="cpu.features",
            description="description",
            kind="kind",
        ),
        resources=Resources(
            cores=settings["cpu.cores"],
            threads=settings["cpu.threads"] if "cpu.threads" in settings else settings["cpu.cores"],
            **present(
                l1d_bytes="cpu.l1d",
                l2_bytes="cpu.l2",
                l3_bytes="cpu.l3",
                frequency_hz="cpu.frequency",
                multiply_adds="cpu.multiply_adds",
                memory_bytes="memory.size",
                bandwidth_bytes_per_s="memory.bandwidth",
                accelerators=_LISTED,
            ),
        ),
        policy=Policy(**present(precision="policy.precision", max_drop="policy.max_drop")),
        budget=Budget(**present(latency_s="budget.latency", memory_bytes="budget.memory", size_bytes="budget.size")),
    )
