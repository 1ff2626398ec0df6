"""What moves elements: how indices of axes go from tensor to tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.pruning.channels import Labels, fixed, is_fixed
from lepton_compile.pruning.labelling import Axes, Labelling, broadcast, set_over_positions, stay, transfer
from lepton_compile.rewriting.patterns import constant, operand


@transfer("Identity", "Dropout")
def same(node: gs.Node, labelling: Labelling) -> None:
    """What is read."""
    labelling.set(node.outputs[0], list(labelling.of(node.inputs[0])))


@transfer("Transpose")
def transpose(node: gs.Node, labelling: Labelling) -> None:
    """The axes in another order."""
    x = labelling.of(node.inputs[0])
    labelling.set(node.outputs[0], [x[axis] for axis in node.attrs.get("perm", range(len(x) - 1, -1, -1))])


@transfer("Concat")
def concat(node: gs.Node, labelling: Labelling) -> None:
    """Along one axis the indices of one operand behind those of another."""
    every = [labelling.of(tensor) for tensor in node.inputs]
    axis = int(node.attrs["axis"]) % len(every[0])
    others = [[labels for place, labels in enumerate(axes) if place != axis] for axes in every]
    made = broadcast(others, len(every[0]) - 1, node, labelling)
    made.insert(axis, np.concatenate([axes[axis] for axes in every]))
    labelling.set(node.outputs[0], made)


@transfer("Split")
def split(node: gs.Node, labelling: Labelling) -> None:
    """Along one axis the indices in parts."""
    x = labelling.of(node.inputs[0])
    axis = int(node.attrs.get("axis", 0)) % len(x)
    start = 0
    for tensor in node.outputs:
        end = start + tensor.shape[axis]
        labelling.set(tensor, [*x[:axis], x[axis][start:end], *x[axis + 1 :]])
        start = end


@transfer("Slice")
def slices(node: gs.Node, labelling: Labelling) -> None:
    """Some indices of some axes."""
    given = [constant(operand(node, place)) for place in range(1, 5)]
    starts, ends, axes, steps = given
    if (
        starts is None
        or ends is None
        or any(operand(node, place) is not None and given[place - 1] is None for place in (3, 4))
    ):
        stay(node, labelling)
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


@transfer("Gather")
def gather(node: gs.Node, labelling: Labelling) -> None:
    """Along one axis the indices that are looked up."""
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


@transfer("Flatten", "Reshape")
def reshape(node: gs.Node, labelling: Labelling) -> None:
    """Axes become one, or one becomes several."""
    if len(node.inputs) > 1 and constant(node.inputs[1]) is None:
        stay(node, labelling)
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


@transfer("Squeeze", "Unsqueeze")
def squeeze(node: gs.Node, labelling: Labelling) -> None:
    """Axes of size 1 come or go."""
    x = [labels for labels in labelling.of(node.inputs[0]) if len(labels) != 1]
    left = iter(x)
    labelling.set(node.outputs[0], [fixed(1) if size == 1 else next(left) for size in node.outputs[0].shape])


@transfer("Expand")
def expand(node: gs.Node, labelling: Labelling) -> None:
    """Axes that were wide already are what they are."""
    if constant(node.inputs[1]) is None:
        stay(node, labelling)
        return
    x = labelling.of(node.inputs[0])
    target = [fixed(size) for size in node.outputs[0].shape]
    made = [
        labels if len(labels) == len(wide) else wide
        for labels, wide in zip([fixed(1)] * (len(target) - len(x)) + x, target, strict=True)
    ]
    labelling.set(node.outputs[0], made)


@transfer("Tile")
def tile(node: gs.Node, labelling: Labelling) -> None:
    """The indices of each axis again and again."""
    x = labelling.of(node.inputs[0])
    made = [np.tile(labels, size // len(labels)) for labels, size in zip(x, node.outputs[0].shape, strict=True)]
    labelling.set(node.outputs[0], made)


@transfer("Pad")
def pad(node: gs.Node, labelling: Labelling) -> None:
    """Axes that grow stay."""
    pads, axes = constant(operand(node, 1)), constant(operand(node, 3))
    if pads is None or (axes is None and operand(node, 3) is not None):
        stay(node, labelling)
        return
    x = labelling.of(node.inputs[0])
    padded = [int(axis) % len(x) for axis in (range(len(x)) if axes is None else axes.tolist())]
    changed = {axis for axis, before, after in zip(padded, pads, pads[len(padded) :], strict=False) if before or after}
    labelling.set(node.outputs[0], _changing(changed, node, labelling))


@transfer("Resize")
def resize(node: gs.Node, labelling: Labelling) -> None:
    """Axes that change stay."""
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


@transfer("DepthToSpace")
def depth_to_space(node: gs.Node, labelling: Labelling) -> None:
    """The channels that become the pixels of one go together."""
    x, block = labelling.of(node.inputs[0]), int(node.attrs["blocksize"])
    if node.attrs.get("mode", "DCR") == "CRD":
        by_result = x[1].reshape(-1, block * block)
    else:
        by_result = x[1].reshape(block * block, -1).T
    made = labelling.together(by_result, node)
    set_over_positions(node, labelling, x, made)


@transfer("SpaceToDepth")
def space_to_depth(node: gs.Node, labelling: Labelling) -> None:
    """What becomes of the pixels of one channel goes with it."""
    x, block = labelling.of(node.inputs[0]), int(node.attrs["blocksize"])
    made = np.tile(x[1], block * block)
    set_over_positions(node, labelling, x, made)
