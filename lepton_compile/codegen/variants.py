"""Variants: programs for the same inputs and outputs, of which a library picks one where it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_compile.codegen.interface import onnx_name, shape_text
from lepton_compile.errors import LeptonError, ModelError, TargetError
from lepton_compile.lowering.program import Program

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class Variant:
    """One of the programs in a library.

    Attributes:
        name: An identifier, such as "full" or "int8".
        program: What it computes. Those of one library have the same name, inputs and outputs.
        target: The machine that it is for. Those of one library may differ in their instruction sets.
        seconds: What a run takes on one thread, measured or predicted; None is enough for a library's only variant.
        plan: What was decided for it, as plan.json holds it.
        times: Seconds of its steps by the names of their nodes, a line each, measured or predicted, for steps.json.
    """

    name: str
    program: Program = field(repr=False)
    target: Target
    seconds: float | None = None
    plan: Mapping[str, object] | None = field(default=None, repr=False)
    times: Mapping[str, float] = field(default_factory=dict, repr=False)


def check_variants(variants: Sequence[Variant]) -> None:
    """Make sure that some variants can share a library.

    Raises:
        LeptonError: There is none, or a name or a time that can not be told to those who choose.
        ModelError: Their inputs or outputs differ.
        TargetError: They are for different architectures or systems.
    """
    if not variants:
        raise LeptonError("a library needs at least one variant")
    names = [variant.name for variant in variants]
    for variant in variants:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", variant.name) or names.count(variant.name) > 1:
            raise LeptonError(
                f"variants are named {', '.join(map(repr, names))}; they need identifiers that differ", names=names
            )
    first = variants[0]
    for variant in variants[1:]:
        if variant.target.triple != first.target.triple:
            raise TargetError(
                f"variant '{variant.name}' is for {variant.target.triple}, and '{first.name}' for "
                f"{first.target.triple}: a library is for one of them",
                variant=variant.name,
            )
        for ours, theirs in zip(_interface(variant.program), _interface(first.program), strict=True):
            if ours != theirs:
                raise ModelError(
                    f"variant '{variant.name}' has {ours}, and '{first.name}' has {theirs}; variants of one model need "
                    "the same",
                    variant=variant.name,
                )
    for variant in variants if len(variants) > 1 else ():
        if variant.seconds is None or not 0 < variant.seconds < 1e6:
            raise LeptonError(
                f"variant '{variant.name}' takes {variant.seconds} seconds for a run; to choose by, it has to be a "
                "number above 0",
                variant=variant.name,
            )


def _interface(program: Program) -> tuple[str, ...]:
    """What callers see of a program, in words."""
    told = [f"the name {program.name}"]
    for kind, buffers in (("inputs", program.inputs), ("outputs", program.outputs)):
        told.append(f"the {kind} {', '.join(f'{onnx_name(buffer)}: {shape_text(buffer)}' for buffer in buffers)}")
    return (*told, f"the dimensions {', '.join(program.dimensions) or 'none'}")
