"""Gather from a table of integers, whose rows are dequantized once they are gathered."""

from __future__ import annotations

from tvm import te

from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.region import Scope


@anchor("Gather")
def packed_table(scope: Scope, operation: Operation, x: te.Tensor, indices: te.Tensor) -> Lowered:
    """Gather from a known table that the model has in integers: they are what lies in memory."""
    stored = scope.quantized(x)
    if stored is None or scope.literal_or_known(x) is None:
        return None
    return OPERATORS["Gather"](operation, stored.computed, indices)
