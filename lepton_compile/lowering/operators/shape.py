"""Operators that rename the elements of a tensor and move none, and those whose answer is known from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import (
    broadcast_load,
    cast,
    dtype_of,
    fill,
    flatten_index,
    load,
    normalise_axis,
    shape_of,
    small_constant,
    unflatten_index,
)
from lepton_compile.lowering.operators.registry import Operation, operator


def aligned_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal size into the finest runs of axes whose sizes multiply to the same.

    (1, 64, 56, 56) and (64, 3136) give [([1], [0]), ([2, 3], [1])]; axes of size one belong to no run. Within a run the
    index is flattened and divided; between runs it is not.
    """
    olds = [axis for axis, size in enumerate(old) if size != 1]
    news = [axis for axis, size in enumerate(new) if size != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while olds or news:
        left, right = [olds.pop(0)], [news.pop(0)]
        while (sizes := (math.prod(old[a] for a in left), math.prod(new[a] for a in right)))[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                left.append(olds.pop(0))
            else:
                right.append(news.pop(0))
        groups.append((left, right))
    return groups


def reshape_to(x: te.Tensor, shape: Sequence[int]) -> te.Tensor:
    """The elements of `x` in row-major order under another shape."""
    old = shape_of(x)
    groups = aligned_groups(old, shape)

    def element(*i: tirx.Expr) -> tirx.Expr:
        indices: list[tirx.Expr] = [tirx.const(0, "int32")] * len(old)
        for left, right in groups:
            flat = flatten_index([i[axis] for axis in right], [shape[axis] for axis in right])
            for axis, index in zip(left, unflatten_index(flat, [old[axis] for axis in left]), strict=True):
                indices[axis] = index
        return load(x, *indices)

    return te.compute(tuple(shape), element, name="reshape")


@operator("Reshape")
def reshape(node: Operation, x: te.Tensor, _: te.Tensor | None = None) -> te.Tensor:
    """A new shape: 0 keeps the input's dimension (unless `allowzero`), -1 takes what is left."""
    target = list(node.integers(1, "the target shape"))
    old = shape_of(x)
    if not node.attribute("allowzero", 0):
        target = [old[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in target:
        rest = math.prod(size for size in target if size != -1)
        target[target.index(-1)] = math.prod(old) // rest if rest else 0
    if math.prod(target) != math.prod(old):
        raise node.unsupported(f"a tensor of shape {list(old)} cannot be given the shape {target}")
    return reshape_to(x, target)


@operator("Flatten")
def flatten(node: Operation, x: te.Tensor) -> te.Tensor:
    """Two axes: those before `axis`, and the rest."""
    shape = shape_of(x)
    axis = normalise_axis(node.attribute("axis", 1), len(shape))
    return reshape_to(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@operator("Squeeze")
def squeeze(node: Operation, x: te.Tensor, axes: te.Tensor | None = None) -> te.Tensor:
    """Without the axes of size one that are named, or without all of them."""
    shape = shape_of(x)
    if axes is None:
        gone = {axis for axis, size in enumerate(shape) if size == 1}
    else:
        gone = {normalise_axis(axis, len(shape)) for axis in node.integers(1, "the list of axes")}
    return reshape_to(x, [size for axis, size in enumerate(shape) if axis not in gone])


@operator("Unsqueeze")
def unsqueeze(node: Operation, x: te.Tensor, _: te.Tensor | None = None) -> te.Tensor:
    """New axes of size one, which stand at the places named in the result."""
    axes = node.integers(1, "the list of axes")
    rank = len(x.shape) + len(axes)
    new = {normalise_axis(axis, rank) for axis in axes}
    sizes = iter(shape_of(x))
    return reshape_to(x, [1 if axis in new else next(sizes) for axis in range(rank)])


@operator("Expand")
def expand(node: Operation, x: te.Tensor, _: te.Tensor | None = None) -> te.Tensor:
    """`x` broadcast against a shape."""
    shape = np.broadcast_shapes(shape_of(x), node.integers(1, "the target shape"))
    return te.compute(shape, lambda *i: broadcast_load(x, i), name="expand")


@operator("Shape")
def shape_operator(node: Operation, x: te.Tensor) -> te.Tensor:
    """The shape, or a part of it."""
    shape = shape_of(x)
    return small_constant(np.array(shape[slice(node.attribute("start", 0), node.attribute("end"))], np.int64))


@operator("Size")
def size_operator(_: Operation, x: te.Tensor) -> te.Tensor:
    """The number of elements."""
    return fill((), math.prod(shape_of(x)), "int64")


@operator("ConstantOfShape")
def constant_of_shape(node: Operation, _: te.Tensor) -> te.Tensor:
    """One value under a shape."""
    value = np.asarray(node.attribute("value", np.zeros(1, np.float32)))
    return fill(node.integers(0, "the shape"), value.ravel()[0].item(), str(value.dtype))


@operator("Constant")
def constant(node: Operation) -> te.Tensor:
    """A small tensor of known values, written as expressions of the index."""
    for name, dtype in (
        ("value_float", "float32"),
        ("value_floats", "float32"),
        ("value_int", "int64"),
        ("value_ints", "int64"),
    ):
        if (value := node.attribute(name)) is not None:
            return small_constant(np.asarray(value, dtype))
    value = node.attribute("value")
    if value is None:
        raise node.unsupported("only numeric dense constants are supported")
    return small_constant(np.asarray(value))


@operator("Range")
def arange(node: Operation, start: te.Tensor, _limit: te.Tensor, _delta: te.Tensor) -> te.Tensor:
    """Start + i delta, below the limit."""
    first, limit, delta = (
        node.constant(i, what).ravel()[0].item() for i, what in enumerate(("start", "limit", "delta"))
    )
    count = max(math.ceil((limit - first) / delta), 0)
    dtype = dtype_of(start)
    return te.compute(
        (count,), lambda i: tirx.const(first, dtype) + cast(i, dtype) * tirx.const(delta, dtype), name="range"
    )


@operator("EyeLike")
def eye_like(node: Operation, x: te.Tensor) -> te.Tensor:
    """Ones on the k-th diagonal, zeros elsewhere."""
    k = node.attribute("k", 0)
    to = node.attribute("dtype")
    dtype = dtype_of(x) if to is None else numpy_name(to)
    return te.compute(shape_of(x), lambda i, j: cast(j - i == k, dtype), name="eye")


def numpy_name(element_type: Any) -> str:
    """Numpy's name of an ONNX element type."""
    return str(onnx.helper.tensor_dtype_to_np_dtype(element_type))
