"""Divide by multiplying: x / c = x * (1 / c) for a constant c, which a processor does ten times as fast.

Where c is no power of two this is off by one more rounding, as moving a factor into weights is. It changes a value that
is then rounded to a whole number, or compared: 41 / 41 is 1, and 41 * (1 / 41) a little less. So a quotient stays one
where element-wise operators, or such as only move elements, lead from it to one of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.elementwise import is_elementwise
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, scopes, summary
from lepton_compile.target import Target

# Operators that a small change of their operand may make jump.
_JUMPING = (
    *("Floor", "Ceil", "Round", "Sign", "Mod", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("QuantizeLinear", "DynamicQuantizeLinear", "ArgMax", "ArgMin", "Not", "TopK", "Unique", "NonZero"),
)
_MOVING = (
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice"),
    *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
# Within these the reciprocal is neither infinite nor denormal.
_SMALLEST, _LARGEST = 2.0**-100, 2.0**100


@dataclass(frozen=True)
class Reciprocals(Pass):
    """Replace divisions by constants by multiplications."""

    name = "reciprocals"
    stage = Stage.CANONICALISE
    after = ("affine_folding",)

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where there is a division by a constant."""
        found = list(_divisions(graph))
        refusals = tuple(f"{node.name}: {why}" for node, why in found if why)
        names = [node.name for node, why in found if not why]
        if not names:
            return Decline("nothing is divided by a constant", refusals)
        return Proposal(self, f"{len(names)} divisions by constants become multiplications: {summary(names)}", refusals)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Multiply by the reciprocals."""
        uses = Uses(graph)
        for node, why in list(_divisions(graph)):
            if why:
                continue
            divisor = constant(node.inputs[1])
            assert divisor is not None
            name = uses.fresh_name(f"{node.inputs[1].name}_reciprocal")
            node.op = "Mul"
            node.inputs[1] = gs.Constant(name, np.asarray(1 / divisor.astype(np.float64), np.float32))
        return graph


def _divisions(graph: Graph) -> Iterator[tuple[gs.Node, str]]:
    """The divisions of float32 by constants, and why one has to stay."""
    for scope in scopes(graph):
        for node in scope.nodes:
            divisor = constant(node.inputs[1]) if is_operator(node, "Div") else None
            if divisor is None or divisor.dtype != np.float32 or not divisor.size:
                continue
            if constant(node.inputs[0]) is not None:
                continue
            size = np.abs(divisor)
            if not np.all((size >= _SMALLEST) & (size <= _LARGEST)):
                yield node, "a divisor has no exact enough reciprocal"
            elif np.all(np.frexp(size)[0] == 0.5):
                yield node, ""
            else:
                jump = _jump_behind(node)
                yield node, f"its quotient decides what {jump.name} ({jump.op}) gives" if jump is not None else ""


def _jump_behind(node: gs.Node) -> gs.Node | None:
    """An operator behind a node that a rounding error may make jump."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        for tensor in waiting.pop().outputs:
            for reader in tensor.outputs:
                if id(reader) in seen:
                    continue
                seen.add(id(reader))
                truncates = is_operator(reader, "Cast", "CastLike") and not _is_float(reader.outputs[0])
                if truncates or is_operator(reader, *_JUMPING):
                    return reader
                if is_elementwise(reader) or is_operator(reader, *_MOVING):
                    waiting.append(reader)
    return None


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype).kind == "f"
