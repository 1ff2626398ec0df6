"""What takes a whole axis together: normalizations and reductions."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from lepton_compile.pruning.channels import fixed
from lepton_compile.pruning.labelling import Axes, Labelling, broadcast, moves_over, stay, transfer
from lepton_compile.rewriting.patterns import constant, is_operator, operand, producer
from lepton_compile.rewriting.polynomial import is_square

_TOGETHER = "takes all channels together"


@transfer("BatchNormalization", "InstanceNormalization")
def per_channel(node: gs.Node, labelling: Labelling) -> None:
    """Normalization of each channel on its own."""
    x = labelling.of(node.inputs[0])
    if node.op == "InstanceNormalization":
        moves_over(x[2:], node, labelling)
    for parameter in node.inputs[1:]:
        labelling.join(x[1], labelling.of(parameter)[0], node)
    labelling.set(node.outputs[0], x)


@transfer("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")
def along_an_axis(node: gs.Node, labelling: Labelling) -> None:
    """Along the last one unless the node names another."""
    _across([int(node.attrs.get("axis", -1))], node, labelling)


@transfer("LRN")
def local_response_normalization(node: gs.Node, labelling: Labelling) -> None:
    """Each channel with its neighbours."""
    _across([1], node, labelling)


@transfer("LayerNormalization")
def layer_normalization(node: gs.Node, labelling: Labelling) -> None:
    """Of one axis, channels that are left are normalised as those of a narrower layer would be."""
    x = labelling.of(node.inputs[0])
    first = int(node.attrs.get("axis", -1)) % len(x)
    if first < len(x) - 1:
        _across(range(first, len(x)), node, labelling)
        return
    broadcast(
        [x, *(labelling.of(tensor) for tensor in node.inputs[1:] if not tensor.is_empty())], len(x), node, labelling
    )
    _set_normalized(node, labelling, x)


def _across(axes: Iterable[int], node: gs.Node, labelling: Labelling) -> None:
    """What takes everything along some axes together, and keeps it."""
    x = labelling.of(node.inputs[0])
    for axis in axes:
        labelling.freeze(x[axis], node, _TOGETHER)
    for parameter in node.inputs[1:]:
        for labels in labelling.of(parameter) if not parameter.is_empty() else ():
            labelling.freeze(labels, node, _TOGETHER)
    _set_normalized(node, labelling, x)


def _set_normalized(node: gs.Node, labelling: Labelling, x: Axes) -> None:
    """What was normalised is as what was read; statistics have no channels."""
    labelling.set(node.outputs[0], list(x))
    for tensor in node.outputs[1:]:
        if not tensor.is_empty():
            labelling.set(tensor, [fixed(size) for size in tensor.shape])


@transfer(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
def reduction(node: gs.Node, labelling: Labelling) -> None:
    """An axis that is reduced stays, unless that is a part of a normalization; others are what they are."""
    x, rank = labelling.of(node.inputs[0]), len(node.inputs[0].shape)
    axes = constant(operand(node, 1))
    if axes is None and operand(node, 1) is not None:
        stay(node, labelling)
        return
    given = axes.reshape(-1).tolist() if axes is not None else node.attrs.get("axes", range(rank))
    if not given:
        given = () if int(node.attrs.get("noop_with_empty_axes", 0)) else range(rank)
    if node.op in ("ArgMax", "ArgMin"):
        given = (int(node.attrs.get("axis", 0)),)
    reduced = {int(axis) % rank for axis in given}
    keeps = int(node.attrs.get("keepdims", 1))
    made: Axes = []
    for axis, labels in enumerate(x):
        if axis in reduced:
            if not (reduced == {axis} and _is_of_normalization(node)):
                labelling.freeze(labels, node, _TOGETHER)
            made += [fixed(1)] * keeps
        else:
            made.append(labels)
    labelling.set(node.outputs[0], made)


def _is_of_normalization(node: gs.Node) -> bool:
    """Whether a mean is one that a normalization spelled out needs: of squares, or what all that it is of is less."""
    if node.op != "ReduceMean":
        return False
    x = node.inputs[0]
    return is_square(producer(x)) or any(
        is_operator(reader, "Sub") and reader.inputs[0] is x and reader.inputs[1] is node.outputs[0]
        for reader in node.outputs[0].outputs
    )
