"""DynamicQuantizeLinear: a tensor's range first, then its bytes, without a division."""

from __future__ import annotations

from tvm import te, tirx

from lepton_compile.kernels.kernel import shape_of
from lepton_compile.kernels.vector_math import f32, let
from lepton_compile.lowering.anchors.quantization import SMALLEST_SCALE, quotient
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.operators.quantization import range_parameters, saturated
from lepton_compile.lowering.operators.reduction import Reducer, maximum, minimum, reduce_axes
from lepton_compile.lowering.region import Scope

# What smaller scales and what they divide are multiplied by, exactly.
_LIFT = 2.0**64


@anchor("DynamicQuantizeLinear")
def dynamic_quantization(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """The bytes, the scale and the zero point, where the processor has a fused multiply-add."""
    if not scope.builder.machine.fused_multiply_add or str(x.dtype) != "float32" or not x.shape:
        return None
    scope.to_memory(x)
    low, high = (_over_all(scope, x, reducer, name) for reducer, name in ((minimum, "low"), (maximum, "high")))
    scale, zero = range_parameters(low, high)
    lift = te.compute((), lambda: tirx.Select(scale() < f32(SMALLEST_SCALE), f32(_LIFT), f32(1)), name="lift")
    reciprocal = te.compute((), lambda: f32(1) / (scale() * lift()), name="reciprocal")
    for value in (scale, zero, lift, reciprocal):
        scope.to_memory(value)
    return (
        te.compute(x.shape, lambda *i: _quantized(x(*i), scale, zero, lift, reciprocal), name="quantize"),
        scale,
        zero,
    )


def _over_all(scope: Scope, x: te.Tensor, reducer: Reducer, name: str) -> te.Tensor:
    """One number for the whole tensor, in memory: row by row first, which threads share."""
    rank = len(shape_of(x))
    if rank > 1:
        x = reduce_axes(x, [rank - 1], reducer, keepdims=False, name=f"{name}_of_row")
        scope.to_memory(x)
    total = reduce_axes(x, range(len(x.shape)), reducer, keepdims=False, name=name)
    scope.to_memory(total)
    return total


def _quantized(x: tirx.Expr, scale: te.Tensor, zero: te.Tensor, lift: te.Tensor, reciprocal: te.Tensor) -> tirx.Expr:
    """round(x / scale) + zero."""
    rounded = tirx.nearbyint(let(x * lift(), lambda v: quotient(v, scale() * lift(), reciprocal())))
    return saturated(rounded + zero().astype("float32"), "uint8")
