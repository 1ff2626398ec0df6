"""The options that several commands share, and the reading of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, TypedDict

import typer

from lepton_compile.target import Budget
from lepton_compile.target.quantities import parse_quantity

Model: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
Limits: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--adapt",
        metavar="latency=5ms,memory=64MB",
        help="What a run may take: the library takes the best of its variants that keeps it.",
    ),
]
TargetOption: TypeAlias = Annotated[
    str, typer.Option("--target", metavar="NAME", help="A target's name or file; `lepton targets` lists them.")
]
Shapes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="Shape of an input, where the model leaves it open."),
]


class Limited(TypedDict, total=False):
    """What a run may take, as `CompiledModel.adapt` has it."""

    latency_s: float
    memory_bytes: int


def read_pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Read NAME=VALUE texts. A name may itself contain "=" or ":", so the last "=" parts it from its value.

    Raises:
        typer.BadParameter: A text has no "=" or no name, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise typer.BadParameter(f"'{text}' is not of the form NAME=VALUE", param_hint=f"'{option}'")
        if name in pairs:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint=f"'{option}'")
        pairs[name] = value
    return pairs


def read_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]] | None:
    """Read `--shape` texts, sizes parted by "," or "x"; None when there are no texts.

    Raises:
        typer.BadParameter: A text is not of the form NAME=1,3,224,224.
    """
    shapes = {}
    for name, sizes in read_pairs("--shape", texts).items():
        if not re.fullmatch(r"\d+([,x]\d+)*", sizes):
            raise typer.BadParameter(f"'{sizes}' is not a shape; write {name}=1,3,224,224", param_hint="'--shape'")
        shapes[name] = tuple(int(size) for size in re.findall(r"\d+", sizes))
    return shapes or None


def read_budget(text: str | None) -> Budget | None:
    """Read a budget such as `latency=5ms,size=4MB,memory=64MB,drop=1%`.

    Raises:
        typer.BadParameter: It names something else, or an amount is none.
    """
    if text is None:
        return None
    amounts = _read_amounts("--budget", text, ("latency", "size", "memory", "drop"))
    return Budget(
        latency_s=amounts.get("latency"),
        size_bytes=int(amounts["size"]) if "size" in amounts else None,
        memory_bytes=int(amounts["memory"]) if "memory" in amounts else None,
        max_drop=amounts.get("drop"),
    )


def read_limits(text: str | None) -> Limited:
    """Read limits such as `latency=5ms,memory=64MB`, as `CompiledModel.adapt` takes them.

    Raises:
        typer.BadParameter: It names something else, or an amount is none.
    """
    if text is None:
        return {}
    amounts = _read_amounts("--adapt", text, ("latency", "memory"))
    made: Limited = {}
    if "latency" in amounts:
        made["latency_s"] = amounts["latency"]
    if "memory" in amounts:
        made["memory_bytes"] = int(amounts["memory"])
    return made


def _read_amounts(option: str, text: str, names: Sequence[str]) -> dict[str, float]:
    """Amounts by name: of latency seconds, of drop a share, of others bytes."""
    amounts: dict[str, float] = {}
    for name, amount in read_pairs(option, text.split(",")).items():
        if name not in names:
            known = f"{', '.join(names[:-1])} and {names[-1]}"
            raise typer.BadParameter(f"'{name}' is none of {known}", param_hint=f"'{option}'")
        if name == "drop":
            amounts[name] = _read_share(amount)
            continue
        try:
            if name == "latency":
                amounts[name] = float(parse_quantity(amount, "seconds"))
            else:
                amounts[name] = int(parse_quantity(amount, "bytes"))
        except ValueError as error:
            raise typer.BadParameter(f"{name} {error}", param_hint=f"'{option}'") from error
        if not amounts[name]:
            raise typer.BadParameter(f"{name} has to be above 0", param_hint=f"'{option}'")
    return amounts


def _read_share(text: str) -> float:
    """A number, or one with a percent sign."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise typer.BadParameter(f"'drop={text}' is not a number", param_hint="'--budget'") from error
    if not 0 <= share < float("inf"):
        raise typer.BadParameter(f"'drop={text}' is not 0 or more", param_hint="'--budget'")
    return share


def read_duration(option: str, text: str | None) -> float | None:
    """Read a time such as `90s`, `10m` or `1h`, in seconds; None when there is no text.

    Raises:
        typer.BadParameter: It is none, or no time at all.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h)", text)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"'{text}' is not a time; write 90s, 10m or 1h", param_hint=f"'{option}'")
    return float(match[1]) * {"s": 1, "h": 3600}.get(match[2], 60)


def read_passes(text: str | None) -> list[str] | None:
    """Part a list of passes at the commas that stand outside of settings, as in `a,b{x=1, y=2}`."""
    if text is None:
        return None
    return [name.strip() for name in re.split(r",(?![^{]*\})", text) if name.strip()]


def read_text(path: Path) -> str:
    """The text of a file that the user named.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {reason(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named.

    Raises:
        typer.BadParameter: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {reason(error)}") from error


def require_writable(path: Path) -> None:
    """Say before any work is done that a file cannot be written.

    Raises:
        typer.BadParameter: It cannot.
    """
    if path.is_dir():
        raise typer.BadParameter(f"cannot write {path}: it is a folder")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        there = path.exists() or path.absolute().parent.is_dir()
        raise typer.BadParameter(f"cannot write {path}: {'permission denied' if there else 'there is no such folder'}")


def reason(error: Exception) -> str:
    """Why a file could not be read or written, without the path that the message has already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
