"""Products of float32 with a known matrix that the model has in integers, which stay integers in memory.

Where few rows are multiplied, what takes time is the matrix's way from memory, and bytes are faster than what they
stand for. Where many are, float32 is: then only who wants small weights keeps the integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import te

from lepton_compile.kernels import dequantizing_matmul as kernel
from lepton_compile.kernels.dequantizing_matmul import NIBBLES, Packing
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.matmul import matrix_product_of
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer, Choice
from lepton_compile.lowering.region import Anchor, Quantized, Scope

_TYPES = "uint8", "int8", "uint16", "int16"


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix of integers that stand for (values - zeros) * scales.

    Attributes:
        values: int16, int8 or uint8, (inner, columns); of 4 bits if that is the packing's.
        scales: float32, (blocks of the inner axis, columns).
        zeros: uint8, of the same shape; read only where the packing has no common one.
        packing: How it is stored.
    """

    values: Array
    scales: Array
    zeros: Array
    packing: Packing


def weight_only_product(
    scope: Scope, left: te.Tensor, right: te.Tensor, *, transposed_left: bool = False, transposed_right: bool = False
) -> te.Tensor | None:
    """The product with a dequantized matrix.

    Args:
        scope: The region.
        left: The left operand, of shape (rows..., inner), or (inner, rows) if transposed.
        right: The right operand, of shape (inner, columns), or (columns, inner) if transposed.
        transposed_left: See `left`.
        transposed_right: See `right`.

    Returns:
        The float32 result, over an anchor that is still open; None where the family does not take it: a right operand
        that was not dequantized or is computed, not of two axes, of more than 16 bits, or with scales that differ from
        row to row; and where float32 is faster and as good.
    """
    stored = scope.quantized(right)
    matrix = packed_matrix(scope, stored, 0 if transposed_right else 1) if stored is not None else None
    if matrix is None:
        return None
    *rows, inner = reversed(shape_of(left)) if transposed_left else shape_of(left)
    builder, machine, packing = scope.builder, scope.builder.machine, matrix.packing
    columns = matrix.values.shape[1]
    shapes = matrix_product_of([], rows, inner, columns, machine, packing.vectors(machine))
    cost = kernel.cycles(shapes, packing, machine)
    cost_unpacked = kernel.cycles(matrix_product_of([], rows, inner, columns, machine), None, machine)
    if cost > cost_unpacked and not builder.small:
        return None

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        origin = scope.origin(left)
        source = scope.in_layout(origin, PLAIN)
        packed = builder.weight(kernel.pack_right(matrix.values, shapes, packing, machine))
        tables = [matrix.scales] if packing.scaled else []
        tables += [matrix.zeros] if packing.zero is None else []
        parameters = [builder.weight(kernel.pack_parameters(table, shapes, machine)) for table in tables]
        definition = kernel.dequantizing_matmul(
            shapes, packing, packed.dtype, left, Source(origin, source.layout), transposed_left, epilogue, machine
        )
        builder.call(definition, [source, packed, *parameters, *sources], [result], scope.nodes)
        over = f"float32 weights: {cost_unpacked / cost:.2f} times the predicted cycles"
        nbytes = sum(each.nbytes() for each in (packed, *parameters))
        builder.choices.append(Choice(scope.nodes, f"weights of {packing}", (over,), nbytes, inner * columns * 4))

    sums = scope.open([*rows, columns], "float32", Anchor(PLAIN, emit))
    if packing.scaled:
        return sums
    factors = scope.constant(matrix.scales)
    return te.compute(sums.shape, lambda *at: sums(*at) * factors(0, at[-1]), name="scaled")


def packed_matrix(scope: Scope, stored: Quantized, column_axis: int) -> PackedMatrix | None:
    """A dequantized matrix, packed in as few bits as hold its integers; None where it is not taken."""
    known = scope.literal_or_known(stored.values)
    if known is None or known.ndim != 2 or known.dtype.name not in _TYPES or not known.size:
        return None
    if stored.scale.size > 1 and stored.axis != (1 - column_axis if stored.block else column_axis):
        return None
    scales, zeros = (
        _by_block(values, stored, known.shape, column_axis) for values in (stored.scale, stored.zero.astype(np.int32))
    )
    values = (known if column_axis == 1 else known.T).astype(np.int32)
    block = stored.block or values.shape[0]
    if known.dtype.itemsize == 2:
        centred = values - np.repeat(zeros, block, 0)[: len(values)]
        if centred.min() < -(2**15) or centred.max() >= 2**15:
            return None
        packing = Packing(16, block, len(scales) > 1)
        return PackedMatrix(centred.astype(np.int16), scales, np.zeros_like(scales, np.uint8), packing)
    low = min(0, int(values.min()) // (NIBBLES // 2) * (NIBBLES // 2))
    if values.max() - low < NIBBLES and zeros.min() >= low and zeros.max() - low <= 255:
        values, zeros, bits = values - low, zeros - low, 4
    else:
        centred = values - np.repeat(zeros, block, 0)[: len(values)]
        bits = 8
        if centred.min() >= -128 and centred.max() <= 127:
            values, zeros = centred, np.zeros_like(zeros)
        elif zeros.min() < 0:
            values, zeros = values + 128, zeros + 128
    common = int(zeros.flat[0]) if (zeros == zeros.flat[0]).all() else None
    dtype = np.int8 if values.min() < 0 else np.uint8
    packing = Packing(bits, block, len(scales) > 1, common)
    return PackedMatrix(values.astype(dtype), scales, zeros.astype(np.uint8), packing)


def _by_block(parameter: Array, stored: Quantized, shape: tuple[int, ...], column_axis: int) -> Array:
    """Scales or zero points as (blocks of the inner axis, columns)."""
    columns = shape[column_axis]
    blocks = -(-shape[1 - column_axis] // stored.block) if stored.block else 1
    if parameter.size > 1 and stored.block:
        return np.ascontiguousarray(parameter if column_axis == 1 else parameter.T)
    return np.broadcast_to(parameter.reshape(1, -1), (blocks, columns)).copy()
