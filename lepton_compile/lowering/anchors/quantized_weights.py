"""Weights and scales of operands that come as integers, as kernels take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import te

from lepton_compile.kernels.byte_products import offset
from lepton_compile.kernels.kernel import Machine
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
    return _centred(scope, w, axis, {"uint8": "int8", "int8": "int8"})


def _centred(scope: Scope, w: Quantized, axis: int, types: Mapping[str, str]) -> Array | None:
    """Weights of some types around a zero point of 0, as the types that these become; see `signed_weights`."""
    known = scope.literal_or_known(w.values)
    if known is None or known.dtype.name not in types or w.block or (w.scale.size > 1 and w.axis != axis):
        return None
    along = [-1 if place == axis else 1 for place in range(known.ndim)]
    zero = w.zero.reshape(along) if w.zero.size > 1 else w.zero.reshape(())
    centred, signed = known.astype(np.int32) - zero.astype(np.int32), np.dtype(types[known.dtype.name])
    held = np.iinfo(signed)
    return centred.astype(signed) if centred.min() >= held.min and centred.max() <= held.max else None


@dataclass(frozen=True)
class Weights:
    """Weights that stand for values * scales.

    Attributes:
        values: int8 or int16.
        scales: float32, one for each place on the axis of outputs.
    """

    values: Array
    scales: Array


def small_weights(scope: Scope, w: Quantized | None, axis: int) -> Weights | None:
    """Weights as signed integers, for operators on float32; None where weights need not be small, or are none.

    Args:
        scope: The region.
        w: What the weights were dequantized from, if they were.
        axis: The axis of outputs.
    """
    return short_weights(scope, w, axis) if scope.builder.small else None


def short_weights(scope: Scope, w: Quantized | None, axis: int) -> Weights | None:
    """The same whether weights are to be small or not."""
    types = {"uint8": "int8", "int8": "int8", "uint16": "int16", "int16": "int16"}
    values = _centred(scope, w, axis, types) if w is not None else None
    if w is None or values is None:
        return None
    return Weights(values, np.broadcast_to(w.scale.reshape(-1), (values.shape[axis],)).copy())


def part_of(scope: Scope, stored: Quantized, place: int) -> te.Tensor:
    """A place on the first axis of known dequantized values; blocks as long as its rows are scales of rows."""
    values = scope.value(stored.values)[place]
    axis, block = stored.axis - 1, stored.block
    computed = te.compute(values.shape, lambda *i: stored.computed(place, *i), name="part")
    if block and axis < 0:
        return computed

    def of(parameter: Array) -> Array:
        if parameter.size == 1:
            return parameter
        return parameter[place] if block or axis < 0 else parameter

    scale, zero = of(stored.scale), of(stored.zero)
    if values.ndim == 2 and block >= values.shape[axis]:
        scale, zero, axis, block = scale.reshape(-1), zero.reshape(-1), 1 - axis, 0
    return scope.dequantize(computed, Quantized(scope.constant(values), scale, zero, axis, block, computed))


def counted_zero(x: Quantized, machine: Machine) -> int:
    """The zero point of an operand of one, as the machine's instruction counts it."""
    return int(x.zero.item()) + offset(machine.dot_products, x.dtype)


def largest_sums(weights: Array, axis: int) -> Array:
    """The largest magnitude of the sums of products of bytes with signed weights, for each place on an axis."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    return 255 * np.asarray(np.abs(weights.astype(np.int64)).sum(axis=others))


def scales_of_sums(x: Quantized, w: Quantized, outputs: int) -> Array:
    """What one stands for in sums of products of an operand of one scale with weights, for each output; float32."""
    scales = np.float32(x.scale.item()) * w.scale.astype(np.float32)
    return np.broadcast_to(scales.reshape(-1), (outputs,)).copy()
