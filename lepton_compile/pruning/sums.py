"""Where channels are summed over: the layers that read them, each with weights for every channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.patterns import constant, is_operator


@dataclass(frozen=True)
class Sum:
    """A sum of products of channels and known weights.

    Attributes:
        node: The node.
        reads: The tensor that has the channels; of a recurrent layer's state all states, which it computes itself.
        axis: The axis that they lie along.
        weights: The weights.
        weights_axis: The axis of the weights that is summed over.
    """

    node: gs.Node
    reads: gs.Tensor
    axis: int
    weights: gs.Constant
    weights_axis: int


def sums(graph: Graph) -> Iterator[Sum]:
    """All sums of a graph, in its order; those of its main graph."""
    for node in graph.gs.nodes:
        for reads, axis, weights_place, weights_axis in _of(node):
            weights = node.inputs[weights_place]
            if constant(weights) is not None:
                yield Sum(node, reads, axis, weights, weights_axis)


def _of(node: gs.Node) -> list[tuple[gs.Tensor, int, int, int]]:
    """The operand, its axis, the weights, and theirs."""
    if not node.inputs:
        return []
    x = node.inputs[0]
    if is_operator(node, "Conv", "ConvTranspose") and int(node.attrs.get("group", 1)) == 1:
        return [(x, 1, 1, 1 if node.op == "Conv" else 0)]
    if is_operator(node, "Gemm"):
        return [(x, 0 if int(node.attrs.get("transA", 0)) else 1, 1, 1 if int(node.attrs.get("transB", 0)) else 0)]
    if is_operator(node, "MatMul") and len(node.inputs[1].shape) == 2:
        return [(x, len(x.shape) - 1, 1, 0)]
    if is_operator(node, "GRU", "LSTM", "RNN"):
        states = node.outputs[0]
        return [(x, 2, 1, 2), *([] if states.is_empty() else [(states, 3, 2, 2)])]
    return []
