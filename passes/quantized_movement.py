"""Move and choose integers instead of what they stand for.

    transpose(dequantize(q)) = dequantize(transpose(q)),  and so with what else moves elements, or takes the largest

All that is brought together has to have one scale and one zero point. The integers are a quarter as long, and a
QuantizeLinear behind takes the DequantizeLinear back. So it is with numbers that are bfloat16 in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, producer, scopes, summary
from lepton_compile.rewriting.quantization import BFLOAT16, MOVING_BFLOAT16, is_restoring, moved_by, quantization_of

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class QuantizedMovement(Pass):
    """Let operators that move elements move integers."""

    name = "quantized_movement"
    stage = Stage.QUANTIZE

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where such an operator reads what was dequantized."""
        found = [node.name for scope in scopes(graph) for node in scope.nodes if _reads_integers(node)]
        if not found:
            return Decline("nothing that moves elements reads what was dequantized")
        return Proposal(self, f"{len(found)} move integers: {summary(found)}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Move them in front of the dequantization, the first of a chain first."""
        uses = Uses(graph)
        for scope in scopes(graph):
            for node in list(scope.nodes):
                if _reads_integers(node):
                    _move(node, uses)
        return graph


def _move(node: gs.Node, uses: Uses) -> None:
    sources = [source for tensor in moved_by(node) if (source := producer(tensor)) is not None]
    first = sources[0]
    for place, source in enumerate(sources):
        node.inputs[place] = source.inputs[0]
    for place, made in enumerate(list(node.outputs)):
        moved = gs.Variable(uses.fresh_name(f"{made.name}_quantized"), first.inputs[0].dtype, made.shape)
        node.outputs[place] = moved
        name = uses.fresh_name(f"{node.name}_dequantized")
        dequantize = gs.Node(first.op, name, dict(first.attrs), [moved, *first.inputs[1:]], [made])
        uses.insert_after(node, dequantize)
    uses.remove({id(source): source for source in sources if _is_unread(source, uses)}.values())


def _reads_integers(node: gs.Node) -> bool:
    """Whether a node moves elements, or takes the largest, of what was dequantized with the same parameters."""
    sources = [producer(tensor) for tensor in moved_by(node)]
    known = quantization_of(sources[0]) if sources else None
    if known is None:
        return False
    if known.dtype not in ("uint8", "int8") and (known.dtype != BFLOAT16.name or node.op not in MOVING_BFLOAT16):
        return False
    return all(is_restoring(source) and quantization_of(source) == known for source in sources)


def _is_unread(node: gs.Node, uses: Uses) -> bool:
    made = node.outputs[0]
    return not made.outputs and not uses.is_output(made)
