"""Products with matrices of bytes: summed as bytes, and what scales and zero points do is the epilogue's.

With a = (p - z) s and b = q t, the sum over the inner axis is s t (sum of p q - z * sum of q); the second sum is known
at compile time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import te

from lepton_compile.kernels import dot_matmul as kernel
from lepton_compile.kernels.dot_product import BYTES, LARGEST_SUM
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.matmul import matrix_product_of
from lepton_compile.lowering.anchors.quantized_weights import (
    counted_zero,
    largest_sums,
    scales_of_sums,
    signed_weights,
)
from lepton_compile.lowering.linear import linear_in
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


def quantized_product(scope: Scope, left: te.Tensor, right: te.Tensor, *, transposed: bool = False) -> te.Tensor | None:
    """The product of dequantized matrices.

    Args:
        scope: The region.
        left: The left operand, of shape (rows..., inner).
        right: The right operand, of shape (inner, columns), or (columns, inner) if `transposed`.
        transposed: See `right`.

    Returns:
        The float32 result, over an anchor that is still open; None where the family does not take it: operands that are
        not dequantized; processors that have no instruction for it; a right operand that is computed or not of two
        axes; what `signed_weights` does not take; sums that could overflow.
    """
    a, b = scope.quantized(left), scope.quantized(right)
    if a is None or b is None or not scope.builder.machine.dot_products or not a.of_bytes:
        return None
    known = signed_weights(scope, b, 0 if transposed else 1)
    if known is None or known.ndim != 2:
        return None
    weights = known.T if transposed else known
    inner, columns = weights.shape
    if inner > LARGEST_SUM:
        return None
    sums = sums_of_products(scope, a.values, weights)
    zero = counted_zero(a, scope.builder.machine)
    offsets = scope.constant((zero * weights.astype(np.int64).sum(axis=0)).astype(np.int32).reshape(1, -1))
    scales = scales_of_sums(a, b, columns).reshape(1, -1)
    factors = scope.constant(scales)
    if zero:
        raw = sums
        sums = te.compute(raw.shape, lambda *at: raw(*at) - offsets(0, at[-1]), name="centred")
    scaled = te.compute(sums.shape, lambda *at: sums(*at).astype("float32") * factors(0, at[-1]), name="scaled")
    return scope.note(scaled, linear_in(sums, scales, largest_sums(weights, 1)))


def sums_of_products(scope: Scope, left: te.Tensor, right: Array) -> te.Tensor:
    """Sums of products of bytes as they are, signed ones on the left counting as 128 more.

    Args:
        scope: The region.
        left: Bytes of shape (rows..., inner).
        right: Signed bytes of shape (inner, columns).

    Returns:
        int32 sums of shape (rows..., columns), an anchor that is still open.
    """
    *rows, inner = shape_of(left)
    machine, columns = scope.builder.machine, right.shape[1]
    shapes = matrix_product_of([], rows, inner, columns, machine)

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder = scope.builder
        source = scope.in_layout(left, PLAIN)
        packed = builder.weight(kernel.pack_right(BYTES, right, shapes, machine))
        definition = kernel.dot_matmul(BYTES, shapes, left, Source(left, source.layout), [], epilogue, machine)
        builder.call(definition, [source, packed, *sources], [result], scope.nodes)

    return scope.open([*rows, columns], "int32", Anchor(PLAIN, emit))
