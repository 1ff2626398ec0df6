"""Operators that move elements by rules known at compile time: an index of the result gives the index of the input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import (
    cast,
    dtype_of,
    load,
    normalise_axis,
    shape_of,
)
from lepton_compile.lowering.operators.registry import Operation, operator
from lepton_compile.lowering.operators.shape import reshape_to


def transpose_to(x: te.Tensor, permutation: Sequence[int]) -> te.Tensor:
    """Axis i of the result is axis permutation[i] of `x`."""
    shape = shape_of(x)
    place = {axis: position for position, axis in enumerate(permutation)}
    return te.compute(
        [shape[axis] for axis in permutation],
        lambda *i: load(x, *(i[place[axis]] for axis in range(len(shape)))),
        name="transpose",
    )


@operator("Transpose")
def transpose(node: Operation, x: te.Tensor) -> te.Tensor:
    """Axes permuted; reversed by default."""
    rank = len(x.shape)
    return transpose_to(x, node.attribute("perm", range(rank)[::-1]))


def slice_axis(x: te.Tensor, axis: int, start: int, count: int, step: int = 1) -> te.Tensor:
    """`count` elements along an axis, from `start` on, `step` apart."""
    shape = list(shape_of(x))
    shape[axis] = count
    return te.compute(shape, lambda *i: load(x, *i[:axis], i[axis] * step + start, *i[axis + 1 :]), name="slice")


@operator("Slice")
def slice_operator(node: Operation, x: te.Tensor, *_: te.Tensor | None) -> te.Tensor:
    """Ranges of some axes, with numpy's rules for negative bounds and steps."""
    shape = shape_of(x)
    starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
    axes: Sequence[int] = range(len(starts))
    steps: Sequence[int] = [1] * len(starts)
    if len(_) > 2 and _[2] is not None:
        axes = [normalise_axis(axis, len(shape)) for axis in node.integers(3, "the list of axes")]
    if len(_) > 3 and _[3] is not None:
        steps = node.integers(4, "steps")
    ranges = {
        axis: range(*slice(start, _end(end, step), step).indices(shape[axis]))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    result = [len(ranges[axis]) if axis in ranges else size for axis, size in enumerate(shape)]

    def element(*i: tirx.Expr) -> tirx.Expr:
        return load(
            x,
            *(
                i[axis] * ranges[axis].step + ranges[axis].start if axis in ranges else i[axis]
                for axis in range(len(shape))
            ),
        )

    return te.compute(result, element, name="slice")


def _end(end: int, step: int) -> int | None:
    """The end of a Python slice: "up to the first element", backwards, is the smallest integer in ONNX."""
    return None if step < 0 and end <= -(2**31) + 1 else end


@operator("Concat")
def concat(node: Operation, *tensors: te.Tensor) -> te.Tensor:
    """Tensors one after the other along an axis; a load happens only where its tensor is the one asked for."""
    shape = list(shape_of(tensors[0]))
    axis = normalise_axis(node.attribute("axis"), len(shape))
    present = [tensor for tensor in tensors if shape_of(tensor)[axis]]
    ends = list(itertools.accumulate(shape_of(tensor)[axis] for tensor in present))
    shape[axis] = ends[-1]

    def element(*i: tirx.Expr) -> tirx.Expr:
        def part(number: int) -> tirx.Expr:
            offset = ends[number - 1] if number else 0
            value = load(present[number], *i[:axis], i[axis] - offset, *i[axis + 1 :])
            if number + 1 == len(present):
                return value
            return tirx.if_then_else(i[axis] < ends[number], value, part(number + 1))

        return part(0)

    return te.compute(shape, element, name="concat")


@operator("Split")
def split(node: Operation, x: te.Tensor, sizes: te.Tensor | None = None) -> tuple[te.Tensor, ...]:
    """Consecutive parts along an axis: of the sizes given, or equal ones, the last of which may be smaller."""
    shape = shape_of(x)
    axis = normalise_axis(node.attribute("axis", 0), len(shape))
    if sizes is not None:
        parts = list(node.integers(1, "the list of sizes"))
    else:
        count = node.attribute("num_outputs", node.outputs)
        part = -(-shape[axis] // count)
        parts = [min(part, shape[axis] - part * number) for number in range(count)]
    starts = [0, *itertools.accumulate(parts)]
    return tuple(slice_axis(x, axis, start, size) for start, size in zip(starts, parts, strict=False))


@operator("Tile")
def tile(node: Operation, x: te.Tensor, _: te.Tensor) -> te.Tensor:
    """`x` repeated along every axis."""
    shape, repeats = shape_of(x), node.integers(1, "the list of repeats")

    def source(index: tirx.Expr, size: int, count: int) -> tirx.Expr | int:
        if size == 1:
            return 0
        return index if count == 1 else tirx.floormod(index, size)

    return te.compute(
        [size * count for size, count in zip(shape, repeats, strict=True)],
        lambda *i: load(x, *(source(*axis) for axis in zip(i, shape, repeats, strict=True))),
        name="tile",
    )


@operator("DepthToSpace")
def depth_to_space(node: Operation, x: te.Tensor) -> te.Tensor:
    """Blocks of channels spread over space; mode DCR has the block outermost among the channels, CRD innermost."""
    n, c, h, w = shape_of(x)
    b = int(node.attribute("blocksize"))
    depth = c // (b * b)
    if node.attribute("mode", "DCR") == "DCR":
        spread = transpose_to(reshape_to(x, (n, b, b, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        spread = transpose_to(reshape_to(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return reshape_to(spread, (n, depth, h * b, w * b))


@operator("SpaceToDepth")
def space_to_depth(node: Operation, x: te.Tensor) -> te.Tensor:
    """Blocks of space gathered into channels; the inverse of DepthToSpace in the same mode."""
    n, c, h, w = shape_of(x)
    b = int(node.attribute("blocksize"))
    order = (0, 3, 5, 1, 2, 4) if node.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    gathered = transpose_to(reshape_to(x, (n, c, h // b, b, w // b, b)), order)
    return reshape_to(gathered, (n, c * b * b, h // b, w // b))


@operator("Trilu")
def triangle(node: Operation, x: te.Tensor, k: te.Tensor | None = None) -> te.Tensor:
    """The upper or lower triangle of matrices, zeros elsewhere."""
    diagonal = node.integers(1, "the diagonal")[0] if k is not None else 0
    dtype = dtype_of(x)

    def element(*i: tirx.Expr) -> tirx.Expr:
        above = i[-1] - i[-2]
        kept = above >= diagonal if node.attribute("upper", 1) else above <= diagonal
        return tirx.Select(kept, load(x, *i), tirx.const(0, dtype))

    return te.compute(shape_of(x), element, name="triangle")


@operator("ReverseSequence")
def reverse_sequence(node: Operation, x: te.Tensor, lengths: te.Tensor) -> te.Tensor:
    """The first `lengths[batch]` steps of every sequence, backwards; the rest as they are."""
    batch, time = node.attribute("batch_axis", 1), node.attribute("time_axis", 0)

    def element(*i: tirx.Expr) -> tirx.Expr:
        length = cast(load(lengths, i[batch]), "int32")
        step = tirx.Select(i[time] < length, length - 1 - i[time], i[time])
        return load(x, *i[:time], step, *i[time + 1 :])

    return te.compute(shape_of(x), element, name="reverse_sequence")


@operator("CenterCropPad")
def center_crop_pad(node: Operation, x: te.Tensor, _: te.Tensor) -> te.Tensor:
    """`x` cut or padded with zeros around its centre to the shape given."""
    shape = shape_of(x)
    axes = [normalise_axis(axis, len(shape)) for axis in node.attribute("axes", range(len(shape)))]
    sizes = dict(zip(axes, node.integers(1, "the target shape"), strict=True))
    result = [sizes.get(axis, size) for axis, size in enumerate(shape)]
    # Half of the difference goes before, rounded towards a smaller offset, for cutting and for padding alike.
    shifts = [(old - new) // 2 if old >= new else -((new - old) // 2) for old, new in zip(shape, result, strict=True)]

    def element(*i: tirx.Expr) -> tirx.Expr:
        at = [index + shift for index, shift in zip(i, shifts, strict=True)]
        outside = [
            bound
            for index, old, new in zip(at, shape, result, strict=True)
            if new > old
            for bound in (index >= 0, index < old)
        ]
        value = load(x, *at)
        return tirx.if_then_else(tirx.all(*outside), value, tirx.const(0, dtype_of(x))) if outside else value

    return te.compute(result, element, name="center_crop_pad")
