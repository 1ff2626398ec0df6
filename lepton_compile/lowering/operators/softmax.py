"""Softmax and its relatives, over one axis (the definition since opset 13)."""

from __future__ import annotations

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.lowering.operators.pointwise import (
    cast,
    convert,
    dtype_of,
    load,
    normalise_axis,
    pointwise,
    shape_of,
    widen,
)
from lepton_compile.lowering.operators.reduction import maximum, minimum, reduce_axes
from lepton_compile.lowering.operators.registry import Operation, operator


@operator("Softmax")
def softmax(node: Operation, x: te.Tensor) -> te.Tensor:
    """exp(x - max) / sum(exp(x - max)): no exponential overflows."""
    axis = normalise_axis(node.attribute("axis", -1), len(x.shape))
    wide = widen(x)
    largest = reduce_axes(wide, [axis], maximum, name="max")
    exponential = pointwise(lambda v, m: vector_math.exp(v - m), wide, largest, name="exp")
    total = reduce_axes(exponential, [axis], name="sum")
    # The sum lies between 1 and the length of the row, or is NaN: one division a row, as in onnxruntime.
    inverse = pointwise(lambda s: tirx.const(1, dtype_of(wide)) / s, total, name="inverse")
    return convert(pointwise(lambda e, s: e * s, exponential, inverse, name="softmax"), dtype_of(x))


@operator("LogSoftmax")
def log_softmax(node: Operation, x: te.Tensor) -> te.Tensor:
    """X - max - ln(sum(exp(x - max)))."""
    axis = normalise_axis(node.attribute("axis", -1), len(x.shape))
    wide = widen(x)
    largest = reduce_axes(wide, [axis], maximum, name="max")
    shifted = pointwise(lambda v, m: v - m, wide, largest, name="shifted")
    total = reduce_axes(shifted, [axis], of=vector_math.exp, name="sum")
    logarithm = pointwise(vector_math.log, total, name="log")
    return convert(pointwise(lambda v, s: v - s, shifted, logarithm, name="log_softmax"), dtype_of(x))


@operator("Hardmax")
def hardmax(node: Operation, x: te.Tensor) -> te.Tensor:
    """One at the first largest element along the axis, zero elsewhere."""
    shape, dtype = shape_of(x), dtype_of(x)
    axis = normalise_axis(node.attribute("axis", -1), len(shape))
    wide = widen(x)
    largest = reduce_axes(wide, [axis], maximum, name="max")

    def at(i: tuple[tirx.Expr, ...]) -> tuple[tirx.Expr, ...]:
        return (*i[:axis], tirx.const(0, "int32"), *i[axis + 1 :])

    place = te.compute(
        shape,
        lambda *i: tirx.Select(load(wide, *i) == load(largest, *at(i)), i[axis], tirx.const(shape[axis], "int32")),
        name="place",
    )
    first = reduce_axes(place, [axis], minimum, name="first")
    return te.compute(shape, lambda *i: cast(load(first, *at(i)) == i[axis], dtype), name="hardmax")
