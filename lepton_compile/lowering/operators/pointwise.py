"""Element by element: shapes, numpy's broadcasting, and the element types that arithmetic is done in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

HALF_TYPES = ("float16", "bfloat16")


def shape_of(x: te.Tensor) -> tuple[int, ...]:
    """The static shape of a tensor."""
    return tuple(int(size) for size in x.shape)


def dtype_of(x: te.Tensor) -> str:
    """The element type of a tensor, as numpy names it."""
    return str(x.dtype)


def is_float(dtype: str) -> bool:
    """Whether an element type is a floating-point one."""
    return "float" in dtype


def load(x: te.Tensor, *indices: int | tirx.Expr) -> tirx.Expr:
    """An element as an expression (indexing a te.Tensor gives a slice, which is not one)."""
    return tirx.convert(x(*indices))


def broadcast_load(x: te.Tensor, indices: Sequence[tirx.Expr]) -> tirx.Expr:
    """The element of `x` that broadcasting brings to `indices` of the result."""
    shape = shape_of(x)
    aligned = indices[len(indices) - len(shape) :]
    return load(x, *(0 if size == 1 else index for size, index in zip(shape, aligned, strict=True)))


def pointwise(function: Callable[..., tirx.Expr], *tensors: te.Tensor, name: str = "pointwise") -> te.Tensor:
    """`function` of the elements of tensors that broadcast against each other."""
    shape = np.broadcast_shapes(*(shape_of(x) for x in tensors))
    return te.compute(shape, lambda *i: function(*(broadcast_load(x, i) for x in tensors)), name=name)


def cast(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """The conversion of C; nothing where the type is right already."""
    return x if str(x.expr_ty()) == dtype else x.astype(dtype)


def arithmetic_type(dtype: str) -> str:
    """The type that arithmetic on this one is done in: half types compute in float32 and round once."""
    return "float32" if dtype in HALF_TYPES else dtype


def float_pointwise(function: Callable[..., tirx.Expr], *tensors: te.Tensor, name: str = "pointwise") -> te.Tensor:
    """`pointwise` for functions of floats of one type, half types widened before and rounded after."""
    dtype = dtype_of(tensors[0])
    wide = arithmetic_type(dtype)
    return pointwise(
        lambda *elements: cast(function(*(cast(element, wide) for element in elements)), dtype), *tensors, name=name
    )


def convert(x: te.Tensor, dtype: str) -> te.Tensor:
    """`x` in another type by C's conversion; `x` itself where it has that type."""
    if dtype_of(x) == dtype:
        return x
    return te.compute(x.shape, lambda *i: cast(load(x, *i), dtype), name="convert")


def widen(x: te.Tensor) -> te.Tensor:
    """`x` in the type that arithmetic on it is done in."""
    return convert(x, arithmetic_type(dtype_of(x)))


def fill(shape: Sequence[int], value: int | float | bool, dtype: str) -> te.Tensor:
    """A tensor of one value."""
    return te.compute(tuple(shape), lambda *_: tirx.const(value, dtype), name="fill")


def small_constant(array: npt.NDArray[np.generic]) -> te.Tensor:
    """A tensor of known values as expressions of its index: only sensible for a few elements."""
    values, dtype = array.ravel().tolist(), str(array.dtype)
    if len(set(values)) <= 1:
        return fill(array.shape, values[0] if values else 0, dtype)

    def element(*indices: tirx.Expr) -> tirx.Expr:
        flat = flatten_index(indices, array.shape)
        result = tirx.const(values[-1], dtype)
        for position in reversed(range(len(values) - 1)):
            result = tirx.Select(flat == position, tirx.const(values[position], dtype), result)
        return result

    return te.compute(array.shape, element, name="constant")


def flatten_index(indices: Sequence[tirx.Expr], shape: Sequence[int]) -> tirx.Expr:
    """The row-major position of `indices` in a tensor of this shape."""
    flat: tirx.Expr = tirx.const(0, "int32")
    for index, size in zip(indices, shape, strict=True):
        if size != 1:
            flat = flat * size + index
    return flat


def unflatten_index(flat: tirx.Expr, shape: Sequence[int]) -> list[tirx.Expr]:
    """The indices of a row-major position in a tensor of this shape."""
    indices: list[tirx.Expr] = []
    rest = flat
    outermost = next((axis for axis, size in enumerate(shape) if size != 1), -1)
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        if size == 1:
            indices.append(tirx.const(0, "int32"))
        elif axis == outermost:
            indices.append(rest)
        else:
            indices.append(tirx.floormod(rest, size))
            rest = tirx.floordiv(rest, size)
    return indices[::-1]


def normalise_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
