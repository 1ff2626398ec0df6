"""Linear quantization: integers that stand for (q - zero point) * scale, per tensor, axis, or block of an axis."""

from __future__ import annotations

from tvm import te, tirx

from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import (
    cast,
    dtype_of,
    load,
    normalise_axis,
    pointwise,
    shape_of,
    widen,
)
from lepton_compile.lowering.operators.reduction import maximum, minimum, reduce_axes
from lepton_compile.lowering.operators.registry import Operation, operator
from lepton_compile.lowering.operators.shape import numpy_name

_SUPPORTED = ("int8", "uint8", "int16", "uint16", "int32")


def _parameter(node: Operation, x: te.Tensor, values: te.Tensor, i: tuple[tirx.Expr, ...]) -> tirx.Expr:
    """The scale or zero point that belongs to the element at `i`."""
    shape = shape_of(values)
    if all(size == 1 for size in shape):
        return load(values, *[0] * len(shape))
    axis = normalise_axis(node.attribute("axis", 1), len(x.shape))
    block = node.attribute("block_size", 0)
    if block:
        return load(values, *i[:axis], tirx.floordiv(i[axis], block), *i[axis + 1 :])
    return load(values, i[axis])


def _require_supported(node: Operation, dtype: str) -> None:
    if dtype not in _SUPPORTED:
        raise node.unsupported(f"the quantized type {dtype} is not supported")


def saturated(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """A whole float as an integer type, clipped to its range; NaN as the lowest, as onnxruntime has it."""
    kind = str(x.expr_ty())
    low, high = (tirx.const(float(limit(dtype).value), kind) for limit in (tirx.min_value, tirx.max_value))

    def clipped(v: tirx.Expr) -> tirx.Expr:
        return let(tirx.Select(v > low, v, low), lambda w: tirx.Select(w < high, w, high))

    return cast(cast(let(x, clipped), "int32"), dtype)


@operator("QuantizeLinear")
def quantize_linear(node: Operation, x: te.Tensor, scale: te.Tensor, zero_point: te.Tensor | None = None) -> te.Tensor:
    """round(x / scale) + zero point, halves to even, clipped to the type's range."""
    to = node.attribute("output_dtype", 0)
    dtype = dtype_of(zero_point) if zero_point is not None else numpy_name(to) if to else "uint8"
    _require_supported(node, dtype)

    def element(*i: tirx.Expr) -> tirx.Expr:
        value = cast(load(x, *i), "float32") / cast(_parameter(node, x, scale, i), "float32")
        rounded = tirx.nearbyint(value)
        if zero_point is not None:
            rounded = rounded + cast(_parameter(node, x, zero_point, i), "float32")
        return saturated(rounded, dtype)

    return te.compute(x.shape, element, name="quantize")


@operator("DequantizeLinear")
def dequantize_linear(
    node: Operation, x: te.Tensor, scale: te.Tensor, zero_point: te.Tensor | None = None
) -> te.Tensor:
    """(x - zero point) * scale."""
    _require_supported(node, dtype_of(x))

    def element(*i: tirx.Expr) -> tirx.Expr:
        value = cast(load(x, *i), "int32")
        if zero_point is not None:
            value = value - cast(_parameter(node, x, zero_point, i), "int32")
        return cast(cast(value, "float32") * cast(_parameter(node, x, scale, i), "float32"), dtype_of(scale))

    return te.compute(x.shape, element, name="dequantize")


def range_parameters(low: te.Tensor, high: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """The scale, float32, and zero point, uint8, that hold a range and zero; the scale of nothing but zero is 1."""
    zero, one, most = (tirx.const(value, "float32") for value in (0, 1, 255))
    bottom = pointwise(lambda v: tirx.Select(v < zero, v, zero), low, name="bottom")
    extent = pointwise(lambda lowest, v: tirx.Select(v > zero, v, zero) - lowest, bottom, high, name="extent")
    scale = pointwise(lambda v: tirx.Select(v == zero, one, v / most), extent, name="scale")
    zero_point = pointwise(
        lambda lowest, s: saturated(tirx.nearbyint(-lowest / s), "uint8"), bottom, scale, name="zero"
    )
    return scale, zero_point


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(_: Operation, x: te.Tensor) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """X as uint8 with the scale and zero point that its range, widened to hold zero, asks for; and those two."""
    axes = range(len(x.shape))
    wide = widen(x)
    high = reduce_axes(wide, axes, maximum, keepdims=False, name="max")
    low = reduce_axes(wide, axes, minimum, keepdims=False, name="min")
    scale, zero_point = range_parameters(low, high)

    def element(v: tirx.Expr, s: tirx.Expr, z: tirx.Expr) -> tirx.Expr:
        return saturated(tirx.nearbyint(v / s) + cast(z, "float32"), "uint8")

    return pointwise(element, wide, scale, zero_point, name="quantize"), scale, zero_point
