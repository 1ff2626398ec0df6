"""MatMulInteger, whose zero points may be known at run time only: dynamic quantization.

With left bytes p of zero point z and right ones q of zero point w, for a row of K,

    sum of (p - z) (q - w) = sum of p q  -  z sum of q  -  w (sum of p  -  K z)

The sums of q are known at compile time. w is 0 wherever q - w fits a signed byte; elsewhere the sums of p are taken row
by row. All of it is the epilogue of the product, as are the scales and the bias behind it.
"""

from __future__ import annotations

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels.byte_products import SIGN, offset
from lepton_compile.kernels.dot_product import LARGEST_SUM
from lepton_compile.kernels.kernel import shape_of
from lepton_compile.lowering.anchors.quantized_product import sums_of_products
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.region import Scope


@anchor("MatMulInteger")
def integer_product(
    scope: Scope,
    operation: Operation,
    a: te.Tensor,
    b: te.Tensor,
    a_zero: te.Tensor | None = None,
    b_zero: te.Tensor | None = None,
) -> Lowered:
    """MatMulInteger with known weights of two axes, where the processor adds products of bytes."""
    known = scope.literal_or_known(b)
    zero = np.zeros((), np.int8) if b_zero is None else scope.literal_or_known(b_zero)
    if not scope.builder.machine.dot_products or known is None or zero is None:
        return None
    if known.ndim != 2 or zero.ndim > 1 or len(a.shape) < 2 or known.shape[0] > LARGEST_SUM:
        return None
    if a_zero is not None and len(a_zero.shape) > 1:
        return None
    weights, left_over = _signed(known, zero)
    inner, columns = weights.shape
    sums = sums_of_products(scope, a, weights)
    *rows, _ = shape_of(a)
    column_sums = scope.constant(weights.sum(axis=0, dtype=np.int32).reshape(1, -1))
    offsets = scope.constant(np.broadcast_to(left_over, (columns,)).astype(np.int32).reshape(1, -1))
    row_sums = _row_sums(scope, a) if left_over.any() else None

    def element(*at: tirx.Expr) -> tirx.Expr:
        *row, column = at
        z = _zero_at(scope, a, a_zero, row)
        value = sums(*at) - z * column_sums(0, column)
        if row_sums is None:
            return value
        return value - offsets(0, column) * (row_sums(*row) - inner * z)

    return te.compute((*rows, columns), element, name="centred")


def _signed(weights: Array, zero: Array) -> tuple[Array, Array]:
    """Signed bytes, and the zero points that they still have: one number, or one for each column."""
    centred = weights.astype(np.int32) - zero.astype(np.int32)
    if centred.min(initial=0) >= -SIGN and centred.max(initial=0) < SIGN:
        return centred.astype(np.int8), np.zeros((), np.int32)
    shift = SIGN if weights.dtype == np.uint8 else 0
    return (weights.astype(np.int32) - shift).astype(np.int8), zero.astype(np.int32) - shift


def _row_sums(scope: Scope, a: te.Tensor) -> te.Tensor:
    """The sum of each row's bytes, as the kernels count them."""
    *rows, inner = shape_of(a)
    k = te.reduce_axis((0, inner), name="k")
    return te.compute(rows, lambda *row: te.sum(_counted(scope, a, a(*row, k.var)), axis=k), name="row_sums")


def _zero_at(scope: Scope, a: te.Tensor, zero: te.Tensor | None, row: list[tirx.Expr]) -> tirx.Expr:
    """The zero point of a row, as the kernels count it."""
    if zero is None:
        return tirx.const(offset(scope.builder.machine.dot_products, str(a.dtype)), "int32")
    axes = shape_of(zero)
    return _counted(scope, a, zero(*([] if not axes else [row[-1] if axes[0] > 1 else 0])))


def _counted(scope: Scope, a: te.Tensor, value: tirx.Expr) -> tirx.Expr:
    more = offset(scope.builder.machine.dot_products, str(a.dtype))
    return value.astype("int32") + more if more else value.astype("int32")
