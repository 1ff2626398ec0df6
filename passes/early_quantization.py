"""Quantize before elements are moved, so that integers are moved; each part of a concatenation for itself.

    quantize(concat(x, y)) = concat(quantize(x), quantize(y)),  so with what else moves elements, or takes the largest

Quantization follows the order of numbers, so it may come before the largest is taken. What was dequantized from bytes
of the same scale is not touched then (`passes/cancelling_quantizations.py`); of another scale, bytes become others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer, scopes, summary
from lepton_compile.rewriting.quantization import moved_by, quantization_of

if TYPE_CHECKING:
    from lepton_compile.target import Target

# What has fewer elements than it is made of is quantized behind.
_TAKING_PARTS = ("Gather", "Slice", "Split")


@dataclass(frozen=True)
class EarlyQuantization(Pass):
    """Quantize before elements are moved."""

    name = "early_quantization"
    stage = Stage.QUANTIZE
    after = ("quantized_movement",)

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where what was moved is quantized, and not used otherwise."""
        uses = Uses(graph)
        found = [node.name for scope in scopes(graph) for node in scope.nodes if _moved(node, uses) is not None]
        if not found:
            return Decline("nothing that was moved is quantized behind")
        return Proposal(self, f"{len(found)} come before elements are moved: {summary(found)}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Put them in front, as far as it goes."""
        uses = Uses(graph)
        for scope in scopes(graph):
            waiting = list(scope.nodes)
            while waiting:
                node = waiting.pop()
                mover = _moved(node, uses)
                if mover is not None:
                    waiting += _put_in_front(node, mover, uses)
        return graph


def _moved(node: gs.Node, uses: Uses) -> gs.Node | None:
    """What moves the elements that a QuantizeLinear alone reads."""
    known = quantization_of(node) if is_operator(node, "QuantizeLinear") else None
    mover = producer(node.inputs[0])
    # onnxruntime moves bytes by any of these operators, wider integers by some.
    if known is None or mover is None or known.dtype not in ("uint8", "int8") or is_operator(mover, *_TAKING_PARTS):
        return None
    data = moved_by(mover)
    if not data or any(constant(tensor) is not None for tensor in data) or len(mover.outputs) != 1:
        return None
    return None if uses.other_use(node.inputs[0], node) or uses.scope(mover) is not uses.scope(node) else mover


def _put_in_front(node: gs.Node, mover: gs.Node, uses: Uses) -> list[gs.Node]:
    """Quantize what is moved instead of what was; the new nodes."""
    parameters = node.inputs[1:]
    result = node.outputs[0]
    quantized: dict[int, gs.Node] = {}
    for place, tensor in enumerate(moved_by(mover)):
        if id(tensor) not in quantized:
            made = gs.Variable(uses.fresh_name(f"{tensor.name}_quantized"), result.dtype, tensor.shape)
            name = uses.fresh_name(f"{node.name}_early")
            quantized[id(tensor)] = gs.Node(node.op, name, dict(node.attrs), [tensor, *parameters], [made])
            uses.insert_before(mover, quantized[id(tensor)])
        mover.inputs[place] = quantized[id(tensor)].outputs[0]
    uses.remove([node])
    mover.outputs[0] = result
    return list(quantized.values())
