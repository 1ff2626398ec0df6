"""BatchNormalization behind what it cannot be folded into."""

from __future__ import annotations

import numpy as np
from tvm import te

from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.region import Scope


@anchor("BatchNormalization")
def batch_normalization(scope: Scope, operation: Operation, x: te.Tensor, *parameters: te.Tensor) -> Lowered:
    """One factor and one offset per channel, known and of the input's rank, so that blocked inputs stay blocked."""
    known = [scope.literal_or_known(parameter) for parameter in parameters]
    rank = len(x.shape)
    if str(x.dtype) != "float32" or rank < 3 or operation.attribute("training_mode", 0):
        return None
    if any(values is None for values in known):
        return None
    scale, bias, mean, variance = (np.asarray(values, np.float64).reshape(-1, *[1] * (rank - 2)) for values in known)
    factor = scale / np.sqrt(variance + operation.attribute("epsilon", 1e-5))
    a, b = (scope.constant(values.astype(np.float32)[np.newaxis]) for values in (factor, bias - mean * factor))
    channel = [0] * (rank - 2)
    return te.compute(x.shape, lambda *i: x(*i) * a(0, i[1], *channel) + b(0, i[1], *channel), name="normalised")
