"""QuantizeLinear without a division, and DequantizeLinear as what kernels of integers know of their operands."""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels.vector_math import f32, let
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.linear import linear_of, quantized
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.region import Quantized, Scope

SMALLEST_SCALE = 1e-30
"""Between this and its reciprocal, float32 numbers have full reciprocals, and products far from overflow."""
# Float32 numbers near this one are whole, and neighbours.
_WHOLE = 1.5 * 2**23


@anchor("QuantizeLinear")
def quantization(
    scope: Scope, operation: Operation, x: te.Tensor, scale: te.Tensor, zero_point: te.Tensor | None = None
) -> Lowered:
    """QuantizeLinear of float32 with one known scale: of what is linear in integers, or with a fused multiply-add."""
    step = scope.literal_or_known(scale)
    zero = np.zeros((), np.uint8) if zero_point is None else scope.literal_or_known(zero_point)
    if step is None or zero is None or step.dtype != np.float32:
        return None
    if step.size != 1 or zero.size != 1 or str(x.dtype) != "float32" or operation.attribute("output_dtype", 0):
        return None
    if zero.dtype.name not in ("uint8", "int8", "uint16", "int16"):
        return None
    factor, offset, dtype = float(step.item()), int(zero.item()), zero.dtype.name
    if not SMALLEST_SCALE <= factor <= 1 / SMALLEST_SCALE:
        return None
    form = linear_of(scope, x)
    made = None if form is None else quantized(scope, form, factor, offset, dtype)
    if made is not None or not scope.builder.machine.fused_multiply_add:
        return made
    return te.compute(x.shape, lambda *i: _quantized(x(*i), factor, offset, dtype), name="quantize")


def _quantized(x: tirx.Expr, scale: float, zero: int, dtype: str) -> tirx.Expr:
    """A float32 number quantized with known parameters.

    It is clipped first, NaN to the lowest, so that nothing overflows; and a division takes as long as ten
    multiplications. Added to 1.5 * 2^23 it is rounded to a whole number, halves to even, which are the last bits.
    """
    low, high = (f32((int(limit(dtype).value) - zero) * scale) for limit in (tirx.min_value, tirx.max_value))

    def clipped(v: tirx.Expr) -> tirx.Expr:
        return let(tirx.Select(v > low, v, low), lambda w: tirx.Select(w < high, w, high))

    rounded = let(let(x, clipped), lambda v: quotient(v, f32(scale), f32(1 / scale)))
    bits = tirx.reinterpret("int32", rounded + f32(_WHOLE))
    return (bits - (int(np.float32(_WHOLE).view(np.int32)) - zero)).astype(dtype)


def quotient(x: tirx.Expr, divisor: tirx.Expr, reciprocal: tirx.Expr) -> tirx.Expr:
    """The rounded quotient, without a division.

    That by the rounded reciprocal, corrected by its remainder, is it (Markstein, "Computation of elementary functions
    on the IBM RISC System/6000 processor", 1990), as the remainder is exact in a fused multiply-add.
    """
    return let(x * reciprocal, lambda q: q + (x - q * divisor) * reciprocal)


@anchor("DequantizeLinear")
def dequantization(
    scope: Scope, operation: Operation, x: te.Tensor, scale: te.Tensor, zero_point: te.Tensor | None = None
) -> Lowered:
    """DequantizeLinear to float32, of one scale, or one for each place on an axis; of constants also for each block."""
    factor = scope.literal_or_known(scale)
    zero = np.zeros((), str(x.dtype)) if zero_point is None else scope.literal_or_known(zero_point)
    if factor is None or zero is None or factor.dtype != np.float32:
        return None
    axis = int(operation.attribute("axis", 1)) % max(1, len(x.shape))
    block = int(operation.attribute("block_size", 0)) if factor.size > 1 else 0
    known = scope.literal_or_known(x)
    computed = OPERATORS["DequantizeLinear"](operation, x, scale, zero_point)
    assert isinstance(computed, te.Tensor)
    if known is not None and known.dtype.kind in "iu":
        made = scope.constant(_dequantized(known, factor, zero, axis, block))
    elif block:
        return None
    else:
        made = computed
    return scope.dequantize(made, Quantized(x, factor, zero, axis, block, computed))


def _dequantized(values: Array, scale: Array, zero: Array, axis: int, block: int) -> Array:
    """(x - zero point) * scale, as the kernel computes it."""
    along = [-1 if place == axis else 1 for place in range(values.ndim)]

    def spread(parameter: Array) -> Array:
        if parameter.size == 1:
            return parameter.reshape(())
        if block:
            return np.repeat(parameter, block, axis)[tuple(slice(size) for size in values.shape)]
        return parameter.reshape(along)

    wide = np.int64 if values.dtype.itemsize >= 4 else np.int32
    centred = values.astype(wide) - spread(zero).astype(wide)
    return np.asarray(centred.astype(np.float32) * spread(scale))
