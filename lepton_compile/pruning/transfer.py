"""What each operator says of the indices of its operands' axes: which of them go together, and which stay.

A transfer function joins labels of what a node reads and gives each axis of its outputs labels. An operator that has
none freezes what it reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model.traversal import captured, subgraphs, walk
from lepton_compile.pruning.channels import Channels, Labels, fixed, is_fixed
from lepton_compile.rewriting.elementwise import OPERATORS
from lepton_compile.rewriting.patterns import ONNX_DOMAINS, constant, is_operator, operand, producer
from lepton_compile.rewriting.polynomial import is_square

Axes: TypeAlias = list[Labels]

_TOGETHER = "takes all channels together"


class Labelling:
    """Labels of the axes of every tensor of a graph, as far as its nodes have been seen.

    Attributes:
        channels: The labels.
        axes: Those of each axis, by the names of the tensors.
    """

    def __init__(self) -> None:
        self.channels = Channels()
        self.axes: dict[str, Axes] = {}

    def of(self, tensor: gs.Tensor) -> Axes:
        """The labels of each axis of a tensor; new ones of a constant that was not seen before."""
        if tensor.name not in self.axes:
            sizes = tensor.shape
            known = isinstance(tensor, gs.Constant)
            self.axes[tensor.name] = [self.channels.new(size) if known and size > 1 else fixed(size) for size in sizes]
        return self.axes[tensor.name]

    def set(self, tensor: gs.Tensor, axes: Axes) -> None:
        """Say what the labels of a node's output are."""
        sizes = [len(labels) for labels in axes]
        assert sizes == list(tensor.shape), f"'{tensor.name}' is of shape {tensor.shape}, not {sizes}"
        self.axes[tensor.name] = axes

    def fix(self, tensor: gs.Tensor, axes: Iterable[int], node: gs.Node) -> None:
        """Say that no channels lie along these axes of what a node reads."""
        seen = tensor.name in self.axes or not isinstance(tensor, gs.Constant)
        for axis in axes:
            if seen:
                self.freeze(self.of(tensor)[axis], node, "does not take channels along this axis")
            else:
                self.of(tensor)[axis] = fixed(tensor.shape[axis])

    def join(self, ones: Labels, others: Labels, node: gs.Node) -> None:
        """Join labels that a node takes together."""
        self.channels.join(ones, others, f"{named(node)} takes it together with what is no channel")

    def together(self, blocks: Labels, node: gs.Node) -> Labels:
        """Join all labels of each row, and give one for each."""
        for column in blocks.T[1:]:
            self.join(blocks[:, 0], column, node)
        return np.ascontiguousarray(blocks[:, 0])

    def freeze(self, labels: Labels, node: gs.Node, why: str) -> None:
        """Let indices stay, because of a node."""
        if not is_fixed(labels):
            self.channels.freeze(labels, f"{named(node)} {why}")


Transfer = Callable[[gs.Node, Labelling], None]


def named(node: gs.Node) -> str:
    """A node, for reasons."""
    return f"{node.name} ({node.op})"


def label(graph: gs.Graph) -> Labelling:
    """Label all tensors of a graph."""
    labelling = Labelling()
    for tensor in graph.inputs:
        labelling.set(tensor, [fixed(size) for size in tensor.shape])
    for node in graph.nodes:
        if not _is_plain(node):
            _stay(node, labelling)
        elif node.op in OPERATORS:
            _elementwise(node, labelling)
        else:
            TRANSFERS.get(node.op, _stay)(node, labelling)
    for tensor in graph.outputs:
        for labels in labelling.of(tensor):
            if not is_fixed(labels):
                labelling.channels.freeze(labels, f"'{tensor.name}' is an output of the model")
    return labelling


def _is_plain(node: gs.Node) -> bool:
    """Whether it is an operator of ONNX's own on tensors of known shapes."""
    tensors = [tensor for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty()]
    return (node.domain or "") in ONNX_DOMAINS and all(tensor.shape is not None for tensor in tensors)


def _stay(node: gs.Node, labelling: Labelling) -> None:
    """Nothing is known of the operator: what it reads, in its subgraphs too, stays."""
    inner = (tensor for each in subgraphs(node) for below in walk(each) for tensor in below.inputs)
    known = (tensor for tensor in inner if isinstance(tensor, gs.Constant))
    for tensor in (*node.inputs, *captured(subgraphs(node)), *known):
        if not tensor.is_empty() and tensor.shape is not None:
            for labels in labelling.of(tensor):
                labelling.freeze(labels, node, "is an operator that channels are not followed through")
    for tensor in node.outputs:
        if not tensor.is_empty() and tensor.shape is not None:
            labelling.set(tensor, [fixed(size) for size in tensor.shape])


def _same(node: gs.Node, labelling: Labelling) -> None:
    labelling.set(node.outputs[0], list(labelling.of(node.inputs[0])))


def _broadcast(shapes: Sequence[Axes], rank: int, node: gs.Node, labelling: Labelling) -> Axes:
    """The axes of a result that operands are broadcast to, each axis joined."""
    found: Axes = []
    for place in range(-rank, 0):
        meeting = [axes[place] for axes in shapes if len(axes) >= -place]
        size = max(len(labels) for labels in meeting)
        wide = [labels for labels in meeting if len(labels) == size]
        for labels in wide[1:]:
            labelling.join(wide[0], labels, node)
        found.append(next((labels for labels in wide if not is_fixed(labels)), wide[0]))
    return found


def _elementwise(node: gs.Node, labelling: Labelling) -> None:
    operands = [labelling.of(tensor) for tensor in node.inputs if not tensor.is_empty()]
    labelling.set(node.outputs[0], _broadcast(operands, len(node.outputs[0].shape), node, labelling))


def _convolution(node: gs.Node, labelling: Labelling) -> None:
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


def _transposed_convolution(node: gs.Node, labelling: Labelling) -> None:
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
    _set_over_positions(node, labelling, x, made)


def _set_over_positions(node: gs.Node, labelling: Labelling, x: Axes, made: Labels) -> None:
    """The result of what moves over positions, with these channels."""
    _moves_over(x[2:], node, labelling)
    labelling.set(node.outputs[0], [x[0], made, *(fixed(size) for size in node.outputs[0].shape[2:])])


def _moves_over(axes: Sequence[Labels], node: gs.Node, labelling: Labelling) -> None:
    for labels in axes:
        labelling.freeze(labels, node, "moves over this axis")


def _pooling(node: gs.Node, labelling: Labelling) -> None:
    x = labelling.of(node.inputs[0])
    _moves_over(x[2:], node, labelling)
    for tensor in node.outputs:
        if not tensor.is_empty():
            labelling.set(tensor, [*x[:2], *(fixed(size) for size in tensor.shape[2:])])


def _matmul(node: gs.Node, labelling: Labelling) -> None:
    one, other = (labelling.of(tensor) for tensor in node.inputs)
    if min(len(one), len(other)) < 2:
        _stay(node, labelling)
        return
    labelling.join(one[-1], other[-2], node)
    outer = _broadcast([one[:-2], other[:-2]], len(node.outputs[0].shape) - 2, node, labelling)
    labelling.set(node.outputs[0], [*outer, one[-2], other[-1]])


def _gemm(node: gs.Node, labelling: Labelling) -> None:
    one, other = (labelling.of(tensor) for tensor in node.inputs[:2])
    rows, inner = reversed(one) if int(node.attrs.get("transA", 0)) else one
    also_inner, columns = reversed(other) if int(node.attrs.get("transB", 0)) else other
    labelling.join(inner, also_inner, node)
    addend = operand(node, 2)
    operands = [[rows, columns], *([labelling.of(addend)] if addend is not None else [])]
    labelling.set(node.outputs[0], _broadcast(operands, 2, node, labelling))


def _per_channel(node: gs.Node, labelling: Labelling) -> None:
    """Normalization of each channel on its own."""
    x = labelling.of(node.inputs[0])
    if node.op == "InstanceNormalization":
        _moves_over(x[2:], node, labelling)
    for parameter in node.inputs[1:]:
        labelling.join(x[1], labelling.of(parameter)[0], node)
    labelling.set(node.outputs[0], x)


def _across(default: int) -> Transfer:
    """Operators that take everything along an axis together, and keep it."""

    def transfer(node: gs.Node, labelling: Labelling) -> None:
        x = labelling.of(node.inputs[0])
        axis = int(node.attrs.get("axis", default)) % len(x)
        last = len(x) if node.op == "LayerNormalization" else axis + 1
        for labels in x[axis:last]:
            labelling.freeze(labels, node, _TOGETHER)
        for parameter in node.inputs[1:]:
            for labels in labelling.of(parameter) if not parameter.is_empty() else ():
                labelling.freeze(labels, node, _TOGETHER)
        _set_normalized(node, labelling, x)

    return transfer


def _layer_normalization(node: gs.Node, labelling: Labelling) -> None:
    """Of one axis, channels that are left are normalised as those of a narrower layer would be."""
    x = labelling.of(node.inputs[0])
    if int(node.attrs.get("axis", -1)) % len(x) != len(x) - 1:
        _across(-1)(node, labelling)
        return
    _broadcast(
        [x, *(labelling.of(tensor) for tensor in node.inputs[1:] if not tensor.is_empty())], len(x), node, labelling
    )
    _set_normalized(node, labelling, x)


def _set_normalized(node: gs.Node, labelling: Labelling, x: Axes) -> None:
    """What was normalised is as what was read; statistics have no channels."""
    labelling.set(node.outputs[0], list(x))
    for tensor in node.outputs[1:]:
        if not tensor.is_empty():
            labelling.set(tensor, [fixed(size) for size in tensor.shape])


def _reduction(node: gs.Node, labelling: Labelling) -> None:
    x, rank = labelling.of(node.inputs[0]), len(node.inputs[0].shape)
    axes = constant(operand(node, 1))
    if axes is None and operand(node, 1) is not None:
        _stay(node, labelling)
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


def _transpose(node: gs.Node, labelling: Labelling) -> None:
    x = labelling.of(node.inputs[0])
    labelling.set(node.outputs[0], [x[axis] for axis in node.attrs.get("perm", range(len(x) - 1, -1, -1))])


def _concat(node: gs.Node, labelling: Labelling) -> None:
    every = [labelling.of(tensor) for tensor in node.inputs]
    axis = int(node.attrs["axis"]) % len(every[0])
    others = [[labels for place, labels in enumerate(axes) if place != axis] for axes in every]
    made = _broadcast(others, len(every[0]) - 1, node, labelling)
    made.insert(axis, np.concatenate([axes[axis] for axes in every]))
    labelling.set(node.outputs[0], made)


def _split(node: gs.Node, labelling: Labelling) -> None:
    x = labelling.of(node.inputs[0])
    axis = int(node.attrs.get("axis", 0)) % len(x)
    start = 0
    for tensor in node.outputs:
        end = start + tensor.shape[axis]
        labelling.set(tensor, [*x[:axis], x[axis][start:end], *x[axis + 1 :]])
        start = end


def _slice(node: gs.Node, labelling: Labelling) -> None:
    given = [constant(operand(node, place)) for place in range(1, 5)]
    starts, ends, axes, steps = given
    if (
        starts is None
        or ends is None
        or any(operand(node, place) is not None and given[place - 1] is None for place in (3, 4))
    ):
        _stay(node, labelling)
        return
    made = list(labelling.of(node.inputs[0]))
    places = range(len(starts)) if axes is None else axes.tolist()
    for number, axis in enumerate(places):
        step = 1 if steps is None else int(steps[number])
        if abs(step) > 1:
            labelling.freeze(made[axis], node, "takes one of several channels")
        made[axis] = made[axis][slice(*_bounds(int(starts[number]), int(ends[number]), step, len(made[axis])), step)]
    labelling.set(node.outputs[0], made)


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None]:
    """What Python's slices take where ONNX clamps."""
    if step > 0:
        return start, end
    return start, None if end < -size else end


def _gather(node: gs.Node, labelling: Labelling) -> None:
    x, indices = labelling.of(node.inputs[0]), constant(node.inputs[1])
    axis = int(node.attrs.get("axis", 0)) % len(x)
    size = len(x[axis])
    if indices is None or indices.ndim > 1:
        labelling.freeze(x[axis], node, "looks up indices of this axis")
        between = [fixed(length) for length in node.inputs[1].shape]
    elif indices.ndim == 0:
        labelling.freeze(x[axis], node, "takes one index of this axis")
        between = []
    else:
        between = [x[axis][indices.astype(np.int64) % size]]
    if not isinstance(node.inputs[1], gs.Constant):
        for labels in labelling.of(node.inputs[1]):
            labelling.freeze(labels, node, "looks up what it reads here")
    labelling.set(node.outputs[0], [*x[:axis], *between, *x[axis + 1 :]])


def _reshape(node: gs.Node, labelling: Labelling) -> None:
    if len(node.inputs) > 1 and constant(node.inputs[1]) is None:
        _stay(node, labelling)
        return
    x = labelling.of(node.inputs[0])
    shape = [int(size) for size in node.outputs[0].shape]
    made: Axes = [fixed(size) for size in shape]
    for ones, others in blocks([len(labels) for labels in x], shape):
        if len(ones) == 1 and len(others) == 1:
            made[others[0]] = x[ones[0]]
        elif len(others) == 1:
            made[others[0]] = _merged([x[axis] for axis in ones], node, labelling)
        elif len(ones) == 1:
            axis, labels = _parted(x[ones[0]], [shape[place] for place in others], node, labelling)
            made[others[axis]] = labels
        else:
            made[others[0]] = _outermost([x[axis] for axis in ones], shape[others[0]], node, labelling)
    labelling.set(node.outputs[0], made)


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of a shape and those of another that together have the same elements, each as few as possible.

    Axes of size 1 are in none.
    """
    ones = [axis for axis, size in enumerate(before) if size != 1]
    others = [axis for axis, size in enumerate(after) if size != 1]
    found: list[tuple[list[int], list[int]]] = []
    while ones and others:
        left, right = [ones.pop(0)], [others.pop(0)]
        while (have := math.prod(before[axis] for axis in left)) != (want := math.prod(after[axis] for axis in right)):
            (left.append(ones.pop(0)) if have < want else right.append(others.pop(0)))
        found.append((left, right))
    return found


def _merged(axes: Axes, node: gs.Node, labelling: Labelling) -> Labels:
    """Of several axes that become one, the outermost that has channels keeps them."""
    live = [place for place, labels in enumerate(axes) if not is_fixed(labels)]
    for place in live[1:]:
        labelling.freeze(axes[place], node, "makes one axis of two that have channels")
    if not live:
        return fixed(math.prod(len(labels) for labels in axes))
    shape = [-1 if place == live[0] else 1 for place in range(len(axes))]
    whole = [len(labels) for labels in axes]
    return np.broadcast_to(axes[live[0]].reshape(shape), whole).reshape(-1).copy()


def _parted(labels: Labels, sizes: Sequence[int], node: gs.Node, labelling: Labelling) -> tuple[int, Labels]:
    """Of one axis that becomes several, the one that has its channels, and their labels.

    It is the one that they differ along, or else the outermost: of heads, each with its own features, whole heads go.
    """
    if is_fixed(labels):
        return 0, fixed(sizes[0])
    grid = labelling.channels.roots(labels).reshape(sizes)
    for axis in range(len(sizes)):
        rows = np.moveaxis(grid, axis, 0).reshape(sizes[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis, np.ascontiguousarray(rows[:, 0])
    return 0, labelling.together(labels.reshape(sizes[0], -1), node)


def _outermost(axes: Axes, size: int, node: gs.Node, labelling: Labelling) -> Labels:
    """Of axes that become others: the outermost, where several of its indices become one, or one several."""
    first, *others = axes
    for labels in others:
        labelling.freeze(labels, node, "spreads this axis over several others")
    if len(first) % size == 0:
        return labelling.together(first.reshape(size, -1), node)
    if size % len(first) == 0:
        return np.repeat(first, size // len(first))
    labelling.freeze(first, node, "spreads this axis over several others")
    return fixed(size)


def _squeeze(node: gs.Node, labelling: Labelling) -> None:
    """Axes of size 1 come or go."""
    x = [labels for labels in labelling.of(node.inputs[0]) if len(labels) != 1]
    left = iter(x)
    labelling.set(node.outputs[0], [fixed(1) if size == 1 else next(left) for size in node.outputs[0].shape])


def _expand(node: gs.Node, labelling: Labelling) -> None:
    if constant(node.inputs[1]) is None:
        _stay(node, labelling)
        return
    x = labelling.of(node.inputs[0])
    target = [fixed(size) for size in node.outputs[0].shape]
    made = [
        labels if len(labels) == len(wide) else wide
        for labels, wide in zip([fixed(1)] * (len(target) - len(x)) + x, target, strict=True)
    ]
    labelling.set(node.outputs[0], made)


def _tile(node: gs.Node, labelling: Labelling) -> None:
    x = labelling.of(node.inputs[0])
    made = [np.tile(labels, size // len(labels)) for labels, size in zip(x, node.outputs[0].shape, strict=True)]
    labelling.set(node.outputs[0], made)


def _pad(node: gs.Node, labelling: Labelling) -> None:
    pads, axes = constant(operand(node, 1)), constant(operand(node, 3))
    if pads is None or (axes is None and operand(node, 3) is not None):
        _stay(node, labelling)
        return
    x = labelling.of(node.inputs[0])
    padded = [int(axis) % len(x) for axis in (range(len(x)) if axes is None else axes.tolist())]
    changed = {axis for axis, before, after in zip(padded, pads, pads[len(padded) :], strict=False) if before or after}
    labelling.set(node.outputs[0], _changing(changed, node, labelling))


def _resize(node: gs.Node, labelling: Labelling) -> None:
    sizes = zip(node.inputs[0].shape, node.outputs[0].shape, strict=True)
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    changed = {axis for axis, (before, after) in enumerate(sizes) if before != after or crops}
    labelling.set(node.outputs[0], _changing(changed, node, labelling))


def _changing(changed: Set[int], node: gs.Node, labelling: Labelling) -> Axes:
    """The axes of a result whose indices, along some axes, are not those of the operand."""
    made: Axes = []
    for axis, (labels, size) in enumerate(zip(labelling.of(node.inputs[0]), node.outputs[0].shape, strict=True)):
        if axis in changed:
            labelling.freeze(labels, node, "changes the size of this axis")
        made.append(fixed(size) if axis in changed else labels)
    return made


def _depth_to_space(node: gs.Node, labelling: Labelling) -> None:
    x, block = labelling.of(node.inputs[0]), int(node.attrs["blocksize"])
    if node.attrs.get("mode", "DCR") == "CRD":
        by_result = x[1].reshape(-1, block * block)
    else:
        by_result = x[1].reshape(block * block, -1).T
    made = labelling.together(by_result, node)
    _set_over_positions(node, labelling, x, made)


def _space_to_depth(node: gs.Node, labelling: Labelling) -> None:
    x, block = labelling.of(node.inputs[0]), int(node.attrs["blocksize"])
    made = np.tile(x[1], block * block)
    _set_over_positions(node, labelling, x, made)


def _recurrent(node: gs.Node, labelling: Labelling) -> None:
    """Hidden units, which have a row of every gate's weights and a column of the recurrent ones, in all directions."""
    hidden = int(node.attrs["hidden_size"])
    for tensor in filter(None, (operand(node, place) for place in (1, 2, 3, 5, 6, 7))):
        labelling.fix(tensor, [0], node)  # directions
    x, weights, state_weights = (labelling.of(tensor) for tensor in node.inputs[:3])
    _moves_over(x[:2], node, labelling)
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


_SAME = ("Identity", "Dropout")
_POOLING = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
_ALONG_THE_LAST = ("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")

TRANSFERS: Mapping[str, Transfer] = dict(
    itertools.chain(
        ((op, _same) for op in _SAME),
        ((op, _pooling) for op in _POOLING),
        ((op, _reduction) for op in _REDUCTIONS),
        ((op, _across(-1)) for op in _ALONG_THE_LAST),
        ((op, _squeeze) for op in ("Squeeze", "Unsqueeze")),
        ((op, _reshape) for op in ("Flatten", "Reshape")),
        ((op, _recurrent) for op in ("GRU", "LSTM", "RNN")),
        ((op, _per_channel) for op in ("BatchNormalization", "InstanceNormalization")),
    ),
    Concat=_concat,
    Conv=_convolution,
    ConvTranspose=_transposed_convolution,
    DepthToSpace=_depth_to_space,
    Expand=_expand,
    Gather=_gather,
    Gemm=_gemm,
    LayerNormalization=_layer_normalization,
    LRN=_across(1),
    MatMul=_matmul,
    Pad=_pad,
    Resize=_resize,
    Slice=_slice,
    SpaceToDepth=_space_to_depth,
    Split=_split,
    Tile=_tile,
    Transpose=_transpose,
)
"""By operator; element-wise ones are not listed."""
