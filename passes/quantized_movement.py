"""Move and choose integers instead of what they stand for.

    transpose(dequantize(q)) = dequantize(transpose(q)),  and so with what else moves elements, or takes the largest

All that is brought together has to have one scale and one zero point. The integers are a quarter as long, and a
QuantizeLinear behind takes the DequantizeLinear back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, has_output, is_operator, producer, scopes, summary
from lepton_compile.rewriting.quantization import quantization_of

if TYPE_CHECKING:
    from lepton_compile.target import Target

# Operators whose results are elements of their first input, as they are.
_MOVING = frozenset(
    ("DepthToSpace", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
     "Tile", "Transpose", "Unsqueeze")
)  # fmt: skip


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
    sources = [source for tensor in _data(node) if (source := producer(tensor)) is not None]
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
    if not _moves(node):
        return False
    sources = [producer(tensor) for tensor in _data(node)]
    known = quantization_of(sources[0])
    # onnxruntime moves bytes by any of these operators, wider integers by some.
    if known is None or known.dtype not in ("uint8", "int8"):
        return False
    return all(is_operator(source, "DequantizeLinear") and quantization_of(source) == known for source in sources)


def _data(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose elements the results are."""
    return list(node.inputs) if node.op == "Concat" else list(node.inputs[:1])


def _moves(node: gs.Node) -> bool:
    if is_operator(node, "MaxPool"):
        return not has_output(node, 1)
    if is_operator(node, "Resize"):
        mode = str(node.attrs.get("mode", "nearest"))
        return mode == "nearest" and str(node.attrs.get("coordinate_transformation_mode")) != "tf_crop_and_resize"
    return is_operator(node, "Concat", *_MOVING)


def _is_unread(node: gs.Node, uses: Uses) -> bool:
    made = node.outputs[0]
    return not made.outputs and not uses.is_output(made)
