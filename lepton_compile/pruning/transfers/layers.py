"""Convolutions, products, pooling and recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.pruning.channels import Labels, fixed
from lepton_compile.pruning.labelling import Axes, Labelling, broadcast, moves_over, set_over_positions, stay, transfer
from lepton_compile.rewriting.patterns import operand


@transfer("Conv")
def convolution(node: gs.Node, labelling: Labelling) -> None:
    """What weights read goes with them, and in groups what a group makes with what it reads."""
    labelling.fix(node.inputs[1], range(2, len(node.inputs[1].shape)), node)
    x, weights = labelling.of(node.inputs[0]), labelling.of(node.inputs[1])
    made, groups = weights[0], int(node.attrs.get("group", 1))
    if groups == 1:
        labelling.join(x[1], weights[1], node)
    else:
        # Whole groups go: of a depthwise convolution a group is a channel, and what is made of it.
        labelling.freeze(weights[1], node, "has equal groups")
        first = labelling.together(x[1].reshape(groups, -1), node)
        labelling.join(first, labelling.together(made.reshape(groups, -1), node), node)
    _positions(node, labelling, x, made)


@transfer("ConvTranspose")
def transposed_convolution(node: gs.Node, labelling: Labelling) -> None:
    """The same with the weights of channels that are read in front."""
    labelling.fix(node.inputs[1], range(2, len(node.inputs[1].shape)), node)
    x, weights = labelling.of(node.inputs[0]), labelling.of(node.inputs[1])
    groups = int(node.attrs.get("group", 1))
    labelling.join(x[1], weights[0], node)
    made = weights[1]
    if groups > 1:
        labelling.freeze(weights[1], node, "has equal groups")
        first = labelling.together(x[1].reshape(groups, -1), node)
        made = np.repeat(first, len(weights[1]))
    _positions(node, labelling, x, made)


def _positions(node: gs.Node, labelling: Labelling, x: Axes, made: Labels) -> None:
    """The result of a convolution, whose bias belongs to its channels."""
    bias = operand(node, 2)
    if bias is not None:
        labelling.join(made, labelling.of(bias)[0], node)
    set_over_positions(node, labelling, x, made)


@transfer("MatMul")
def matmul(node: gs.Node, labelling: Labelling) -> None:
    """What is summed over goes together; rows and columns are those of the operands."""
    one, other = (labelling.of(tensor) for tensor in node.inputs)
    if min(len(one), len(other)) < 2:
        stay(node, labelling)
        return
    labelling.join(one[-1], other[-2], node)
    outer = broadcast([one[:-2], other[:-2]], len(node.outputs[0].shape) - 2, node, labelling)
    labelling.set(node.outputs[0], [*outer, one[-2], other[-1]])


@transfer("Gemm")
def gemm(node: gs.Node, labelling: Labelling) -> None:
    """The same, perhaps transposed, and the addend goes with what is made."""
    one, other = (labelling.of(tensor) for tensor in node.inputs[:2])
    rows, inner = reversed(one) if int(node.attrs.get("transA", 0)) else one
    also_inner, columns = reversed(other) if int(node.attrs.get("transB", 0)) else other
    labelling.join(inner, also_inner, node)
    addend = operand(node, 2)
    operands = [[rows, columns], *([labelling.of(addend)] if addend is not None else [])]
    labelling.set(node.outputs[0], broadcast(operands, 2, node, labelling))


@transfer("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
def pooling(node: gs.Node, labelling: Labelling) -> None:
    """Channels stay what they are."""
    x = labelling.of(node.inputs[0])
    moves_over(x[2:], node, labelling)
    for tensor in node.outputs:
        if not tensor.is_empty():
            labelling.set(tensor, [*x[:2], *(fixed(size) for size in tensor.shape[2:])])


@transfer("GRU", "LSTM", "RNN")
def recurrent(node: gs.Node, labelling: Labelling) -> None:
    """Hidden units, which have a row of every gate's weights and a column of the recurrent ones, in all directions."""
    hidden = int(node.attrs["hidden_size"])
    for tensor in filter(None, (operand(node, place) for place in (1, 2, 3, 5, 6, 7))):
        labelling.fix(tensor, [0], node)  # directions
    x, weights, state_weights = (labelling.of(tensor) for tensor in node.inputs[:3])
    moves_over(x[:2], node, labelling)
    labelling.join(x[2], weights[2], node)
    units = state_weights[2]

    def rows(labels: Labels) -> None:
        for gate in labels.reshape(-1, hidden):
            labelling.join(units, gate, node)

    rows(weights[1])
    rows(state_weights[1])
    for place, axis in ((3, 1), (5, 2), (6, 2), (7, 1)):
        tensor = operand(node, place)
        if tensor is not None:
            rows(labelling.of(tensor)[axis])
    for tensor in node.outputs:
        if not tensor.is_empty():
            labelling.set(tensor, [*(fixed(size) for size in tensor.shape[:-1]), units])
