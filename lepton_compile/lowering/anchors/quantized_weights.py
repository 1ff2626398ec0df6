"""Weights that come as bytes, as kernels take them."""

from __future__ import annotations

import numpy as np

from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.region import Quantized, Scope


def signed_weights(scope: Scope, w: Quantized, axis: int) -> Array | None:
    """Weights as signed bytes around a zero point of 0.

    Args:
        scope: The region.
        w: The weights.
        axis: The axis along which scales and zero points may differ.

    Returns:
        Them; None if they are computed, are no bytes, have scales along another axis, or differ from their zero points
        by more than a signed byte holds.
    """
    known = scope.literal_or_known(w.values)
    if known is None or known.dtype.name not in ("uint8", "int8") or (w.scale.size > 1 and w.axis != axis):
        return None
    along = [-1 if place == axis else 1 for place in range(known.ndim)]
    zero = w.zero.reshape(along) if w.zero.size > 1 else w.zero.reshape(())
    centred = known.astype(np.int32) - zero.astype(np.int32)
    return centred.astype(np.int8) if centred.min() >= -128 and centred.max() <= 127 else None
