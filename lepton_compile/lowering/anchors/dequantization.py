"""DequantizeLinear: noted, so that what reads it may compute with the integers; computed here where they are known."""

from __future__ import annotations

import numpy as np
from tvm import te

from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.region import Quantized, Scope


@anchor("DequantizeLinear")
def dequantization(
    scope: Scope, operation: Operation, x: te.Tensor, scale: te.Tensor, zero_point: te.Tensor | None = None
) -> Lowered:
    """DequantizeLinear to float32, of one scale or one for each place on an axis."""
    factor = scope.literal_or_known(scale)
    zero = np.zeros((), str(x.dtype)) if zero_point is None else scope.literal_or_known(zero_point)
    if factor is None or zero is None or operation.attribute("block_size", 0) or factor.dtype != np.float32:
        return None
    axis = int(operation.attribute("axis", 1)) % max(1, len(x.shape))
    known = scope.literal_or_known(x)
    if known is None:
        made = OPERATORS["DequantizeLinear"](operation, x, scale, zero_point)
        assert isinstance(made, te.Tensor)
    else:
        made = scope.constant(_dequantized(known, factor, zero, axis))
    return scope.dequantize(made, Quantized(x, factor, zero, axis))


def _dequantized(values: Array, scale: Array, zero: Array, axis: int) -> Array:
    """(x - zero point) * scale, as the kernel computes it."""
    along = [-1 if place == axis else 1 for place in range(values.ndim)]
    factor = scale.reshape(along) if scale.size > 1 else scale.reshape(())
    offset = zero.reshape(along) if zero.size > 1 else zero.reshape(())
    wide = np.int64 if values.dtype.itemsize >= 4 else np.int32
    centred = values.astype(wide) - offset.astype(wide)
    return np.asarray(centred.astype(np.float32) * factor)
