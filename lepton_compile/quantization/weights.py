"""Weights as signed integers, symmetric around 0, with a scale for each output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def largest(bits: int) -> int:
    """The largest integer of so many bits; that of the largest magnitude is left out, so that negation is exact."""
    return int(2 ** (bits - 1)) - 1


LARGEST_BIAS = 2**30
"""The largest bias in the unit of the sums; where weights are tiny beside their bias, it stays a float."""


def spread(values: Array, axis: int, rank: int) -> Array:
    """One number for each index of an axis, in a shape that broadcasts against tensors of this rank."""
    return values.reshape([-1 if place == axis else 1 for place in range(rank)])


def weight_scales(weights: Array, axis: int, bits: int = 8) -> npt.NDArray[np.float32]:
    """The scale of each output: its largest weight is the largest integer; 1 where all are next to zero.

    Args:
        weights: float32.
        axis: The axis that outputs lie along.
        bits: Bits of the integers.
    """
    others = tuple(place for place in range(weights.ndim) if place != axis)
    peaks = np.abs(weights).max(axis=others)
    return scales_of(peaks, bits)


def scales_of(peaks: Array, bits: int) -> npt.NDArray[np.float32]:
    """The scales with which the largest magnitudes become the largest integer; 1 where they are next to zero."""
    scales = peaks / np.float32(largest(bits))
    return np.where(scales > 0, scales, 1).astype(np.float32)


def rounded(weights: Array, scales: Array, axis: int, bits: int = 8) -> npt.NDArray[np.signedinteger[Any]]:
    """The nearest integers: int16 of more than 8 bits, else int8."""
    steps = np.rint(weights / spread(scales, axis, weights.ndim))
    return np.clip(steps, -largest(bits), largest(bits)).astype(np.int8 if bits <= 8 else np.int16)


def rounded_bias(bias: Array, scales: Array) -> npt.NDArray[np.int32]:
    """A bias in the unit of the sums that it is added to, scales being those of the sums; at most `LARGEST_BIAS`."""
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32)
