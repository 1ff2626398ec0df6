"""Recognise scaled dot-product attention (Vaswani et al., 2017, arXiv:1706.03762).

    softmax(scale Q K^T [+ mask]) V

The scale may stand before the first product, on either or both operands, or behind it; the transposition of K goes in
as well, and those that bring the heads of Q, K and V together. Masks are added (Add), or chosen (Where).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer, same_type, static_shape
from lepton_compile.rewriting.polynomial import number
from lepton_compile.rewriting.quantization import IN_BFLOAT16, is_restoring, quantization_of
from lepton_compile.rewriting.reductions import reduced_axes
from lepton_compile.rewriting.regions import kind_of

# Between the product and the softmax: scale, mask, and the bound that some exporters put behind a mask.
_BETWEEN = 4


@dataclass(frozen=True)
class Attention(PatternFusion):
    """Recognise scaled dot-product attention."""

    name = "attention"
    kind = "Attention"
    after = ("softmax",)

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The nodes up to `node`, which multiplies with V."""
        if not is_operator(node, "MatMul"):
            return ()
        casts, weights = _behind_casts(node.inputs[0], node, uses)
        softmax = producer(weights)
        if softmax is None or not _is_over_last_axis(softmax, graph):
            return ()
        scores = _scores(softmax.inputs[0], _BETWEEN)
        if not scores:
            return ()
        product = scores[-1]
        before = [part for tensor in product.inputs for part in _preparation(tensor, product, uses)]
        return (*before, *scores, softmax, *casts, *_preparation(node.inputs[1], node, uses), node)


def _behind_casts(tensor: gs.Tensor, reader: gs.Node, uses: Uses) -> tuple[list[gs.Node], gs.Tensor]:
    """The Casts to bfloat16 and back that a tensor comes from and nothing else uses, and what they round."""
    nodes: list[gs.Node] = []
    while (node := producer(tensor)) is not None and quantization_of(node) == IN_BFLOAT16:
        if uses.other_use(tensor, reader):
            break
        nodes.append(node)
        tensor, reader = node.inputs[0], node
    return nodes, tensor


def _is_over_last_axis(node: gs.Node, graph: Graph) -> bool:
    """Whether `node` is a softmax, an operator or a recognised one, along the last axis."""
    shape = static_shape(node.outputs[0]) if node.outputs else None
    if shape is None:
        return False
    if is_operator(node, "Softmax"):
        return int(node.attrs.get("axis", -1)) in (-1, len(shape) - 1)
    if kind_of(node) != "Softmax":
        return False
    function = next(function for function in graph.gs.functions if function.name == node.op)
    return all(reduced_axes(part) == (len(shape) - 1,) for part in function.nodes if is_operator(part, "ReduceSum"))


def _scores(tensor: gs.Tensor, depth: int) -> list[gs.Node]:
    """The nodes from `tensor` back to the MatMul that it is computed by, which comes last; none if there is none."""
    node = producer(tensor)
    if is_operator(node, "MatMul"):
        return [node]
    if depth == 0 or not is_operator(node, "Add", "Mul", "Div", "Where", "Max"):
        return []
    operands = node.inputs[:1] if node.op == "Div" else node.inputs[1:] if node.op == "Where" else node.inputs
    for operand in operands:
        others = [other for other in node.inputs if other is not operand]
        if len(others) != len(node.inputs) - 1:
            continue
        if node.op in ("Mul", "Div", "Max") and not all(number(other) is not None for other in others):
            continue
        if node.op == "Where" and not any(constant(other) is not None for other in others):
            continue
        if same_type(operand, tensor) and (rest := _scores(operand, depth - 1)):
            return [node, *rest]
    return []


def _preparation(tensor: gs.Tensor, reader: gs.Node, uses: Uses) -> list[gs.Node]:
    """The scaling and the transpositions of an operand that nothing else uses, and what restores it."""
    nodes: list[gs.Node] = []
    while (node := producer(tensor)) is not None and not uses.other_use(tensor, reader):
        if is_operator(node, "Mul", "Div") and number(node.inputs[1]) is not None:
            source = node.inputs[0]
        elif is_operator(node, "Mul") and number(node.inputs[0]) is not None:
            source = node.inputs[1]
        elif is_operator(node, "Transpose") or is_restoring(node):
            source = node.inputs[0]
        else:
            break
        nodes.append(node)
        tensor, reader = source, node
    return nodes
