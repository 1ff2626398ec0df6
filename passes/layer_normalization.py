"""Recognise layer normalisation spelled out (Ba et al., 2016, arXiv:1607.06450), over the last axes.

    d = x - mean(x);  y = d / sqrt(mean(d^2) + epsilon) [* scale [+ bias]]

Scale and bias are constants that broadcast over the normalised axes alone. Where an exporter wrote the affine map first
(r = scale / sqrt(...), y = x r + (bias - mean(x) r)), that is recognised as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer, same_type, static_shape
from lepton_compile.rewriting.polynomial import is_square, number
from lepton_compile.rewriting.reductions import is_trailing, reduced_axes


@dataclass(frozen=True)
class LayerNormalization(PatternFusion):
    """Recognise layer normalisation spelled out with means."""

    name = "layer_normalization"
    kind = "LayerNormalization"

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The nodes from mean to bias, where `node` divides by the standard deviation, or ends an affine map."""
        if is_operator(node, "Div", "Mul"):
            return _centred_first(node, uses)
        return _affine_first(node) if is_operator(node, "Add") else ()


def _centred_first(node: gs.Node, uses: Uses) -> Sequence[gs.Node]:
    orders = [node.inputs] if node.op == "Div" else [node.inputs, node.inputs[::-1]]
    for difference, deviation in orders:
        variance, nodes = _root(deviation, inverse=node.op == "Mul")
        centred = _mean_of_squares(variance)
        minus = producer(difference)
        if centred is None or not is_operator(minus, "Sub"):
            continue
        mean, axes, parts = centred
        if minus.inputs[0] is mean.inputs[0] and minus.inputs[1] is mean.outputs[0]:
            core = [mean, *parts, *nodes, minus, node]
            return [*core, *_scale_and_bias(node.outputs[0], len(axes), uses)]
    return ()


def _affine_first(node: gs.Node) -> Sequence[gs.Node]:
    for scaled, shift in (node.inputs, node.inputs[::-1]):
        product, rest = producer(scaled), producer(shift)
        if not is_operator(product, "Mul") or not is_operator(rest, "Sub") or constant(rest.inputs[0]) is None:
            continue
        shifted = producer(rest.inputs[1])
        if not is_operator(shifted, "Mul"):
            continue
        for x, factor in (product.inputs, product.inputs[::-1]):
            weight = producer(factor)
            others = [tensor for tensor in shifted.inputs if tensor is not factor]
            if not is_operator(weight, "Mul") or len(others) != 1:
                continue
            for inverse, scale in (weight.inputs, weight.inputs[::-1]):
                variance, nodes = _root(inverse, inverse=True)
                centred = _mean_of_squares(variance)
                if centred is None or constant(scale) is None:
                    continue
                mean, axes, parts = centred
                same = mean.inputs[0] is x and mean.outputs[0] is others[0]
                if same and _is_over(scale, len(axes)) and _is_over(rest.inputs[0], len(axes)):
                    return [mean, *parts, *nodes, weight, product, shifted, rest, node]
    return ()


def _root(tensor: gs.Tensor, *, inverse: bool) -> tuple[gs.Tensor | None, list[gs.Node]]:
    """The `variance` of sqrt(variance + epsilon), or of its reciprocal, and the nodes between; None if it is none."""
    node = producer(tensor)
    nodes: list[gs.Node] = []
    if inverse and is_operator(node, "Reciprocal"):
        nodes, node, inverse = [node], producer(node.inputs[0]), False
    elif inverse and is_operator(node, "Div") and number(node.inputs[0]) == 1:
        nodes, node, inverse = [node], producer(node.inputs[1]), False
    is_power = is_operator(node, "Pow") and number(node.inputs[1]) == (-0.5 if inverse else 0.5)
    if node is None or not (is_power or (is_operator(node, "Sqrt") and not inverse)):
        return None, []
    addition = producer(node.inputs[0])
    if not is_operator(addition, "Add"):
        return None, []
    variances = [operand for operand in addition.inputs if number(operand) is None]
    return (variances[0], [addition, node, *nodes]) if len(variances) == 1 else (None, [])


def _mean_of_squares(variance: gs.Tensor | None) -> tuple[gs.Node, tuple[int, ...], list[gs.Node]] | None:
    """The mean that a variance is about, the axes that it is over, and the nodes from the one to the other."""
    average = producer(variance) if variance is not None else None
    square = producer(average.inputs[0]) if is_operator(average, "ReduceMean") else None
    if average is None or square is None or not is_square(square):
        return None
    difference = producer(square.inputs[0])
    if not is_operator(difference, "Sub"):
        return None
    mean = producer(difference.inputs[1])
    if not is_operator(mean, "ReduceMean") or mean.inputs[0] is not difference.inputs[0]:
        return None
    axes, shape = reduced_axes(average), static_shape(mean.inputs[0])
    if axes is None or axes != reduced_axes(mean) or shape is None or not is_trailing(axes, len(shape)):
        return None
    return mean, axes, [difference, square, average]


def _scale_and_bias(normalised: gs.Tensor, axes: int, uses: Uses) -> list[gs.Node]:
    """The Mul, and the Add behind it, by constants over the normalised axes."""
    nodes: list[gs.Node] = []
    tensor = normalised
    for op_type in ("Mul", "Add"):
        node = tensor.outputs[0] if tensor.outputs else None
        if not is_operator(node, op_type) or uses.other_use(tensor, node):
            break
        others = [operand for operand in node.inputs if operand is not tensor]
        if len(others) != 1 or not _is_over(others[0], axes) or not same_type(node.outputs[0], normalised):
            break
        nodes.append(node)
        tensor = node.outputs[0]
    return nodes


def _is_over(tensor: gs.Tensor, axes: int) -> bool:
    """Whether `tensor` is a constant that differs along the last `axes` axes only."""
    values = constant(tensor)
    return values is not None and all(size == 1 for size in values.shape[: max(values.ndim - axes, 0)])
