"""Comparing answers: is what one engine computes what another does?

A tolerance against the largest value hides everything else (a detector's boxes reach 320, its scores 0.03), so errors
are relative, by Euclidean norms, and every channel is held to account on its own:

    ‖a - b‖₂ / ‖b‖₂ <= tolerance            over the whole tensor
    ‖a_c - b_c‖₂ / ‖b_c‖₂ <= channel_tolerance  for every index c of axis 1

A channel that is a single number (a logit of a classifier) may be off by `tolerance` of the root mean square of all, if
that is more: a sum that happens to cancel has no relative precision, whoever computes it.

Integers, booleans and strings are equal; NaN and infinities stand in the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TENSOR_TOLERANCE = 1e-4
"""Largest relative error of a whole output."""
CHANNEL_TOLERANCE = 1e-3
"""Largest relative error of one channel of an output."""


@dataclass(frozen=True)
class Mismatch:
    """One way in which an output is not as expected.

    Attributes:
        output: The output's name.
        problem: What is wrong: "missing", "unexpected", "dtype", "shape", "special values" (NaN and infinities),
            "values" (integers, booleans and strings), "tensor" (the error of the whole) or "channel" (of one channel).
        detail: The rest of the line, for a person to read.
        error: The relative error, for "tensor" and "channel"; the fraction of elements that differ, for "values" and
            "special values".
        tolerance: What `error` may be at most.
        channel: The index on axis 1 of the worst channel, for "channel".
    """

    output: str
    problem: str
    detail: str
    error: float | None = None
    tolerance: float | None = None
    channel: int | None = None

    def __str__(self) -> str:
        return f"output '{self.output}' {self.detail}"


def compare_outputs(
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    tolerance: float = TENSOR_TOLERANCE,
    channel_tolerance: float = CHANNEL_TOLERANCE,
) -> list[Mismatch]:
    """Compare outputs, which are tensors by name.

    A tolerance finer than the element type can hold (float16, bfloat16) is widened to twice the type's epsilon.

    Args:
        actual: What is judged.
        expected: What it should be.
        tolerance: Largest relative error of a whole float tensor.
        channel_tolerance: Largest relative error of each channel of a float tensor that has an axis 1.

    Returns:
        Every mismatch, in the order of `expected`; empty where they agree. Of the channels of an output, the worst.
    """
    mismatches: list[Mismatch] = []
    for name, wanted in expected.items():
        if name not in actual:
            mismatches.append(Mismatch(name, "missing", "is missing"))
        else:
            mismatches += _compare(name, np.asarray(actual[name]), np.asarray(wanted), tolerance, channel_tolerance)
    mismatches += [Mismatch(name, "unexpected", "is not expected") for name in actual if name not in expected]
    return mismatches


def relative_error(actual: Array, expected: Array) -> float:
    """‖actual - expected‖₂ / ‖expected‖₂ over all elements, which are finite and of the same shape.

    0 where both are equal, and where they differ by less than the smallest normal number of the type; infinite where
    only `expected` is zero.
    """
    return float(_relative_errors(actual.reshape(1, -1), expected.reshape(1, -1))[0])


def _compare(name: str, actual: Array, expected: Array, tolerance: float, channel_tolerance: float) -> list[Mismatch]:
    if actual.dtype != expected.dtype:
        return [Mismatch(name, "dtype", f"is {actual.dtype} instead of {expected.dtype}")]
    if actual.shape != expected.shape:
        return [Mismatch(name, "shape", f"has shape {list(actual.shape)} instead of {list(expected.shape)}")]
    limits = _limits(expected.dtype)
    if limits is None:
        return _where_different(name, "values", "differs", actual != expected)
    finite = np.isfinite(expected)
    if not finite.all() or not np.isfinite(actual).all():
        same = np.isfinite(actual) & finite | (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        if not same.all():
            return _where_different(name, "special values", "has other NaN or infinities", ~same)
        zero = expected.dtype.type(0)
        actual, expected = np.where(finite, actual, zero), np.where(finite, expected, zero)
    resolution = 2 * float(limits.eps)
    tolerance, channel_tolerance = max(tolerance, resolution), max(channel_tolerance, resolution)

    mismatches = []
    error = relative_error(actual, expected)
    if error > tolerance:
        text = f"has relative error {error:.2e}, more than {tolerance:.0e}"
        mismatches.append(Mismatch(name, "tensor", text, error, tolerance))
    if expected.ndim >= 2 and expected.size:
        errors = _channel_errors(actual, expected, tolerance)
        worst, count = int(errors.argmax()), int((errors > channel_tolerance).sum())
        if count:
            text = f"has relative error {errors[worst]:.2e} in channel {worst}, more than {channel_tolerance:.0e}"
            more = f" ({count} of {len(errors)} channels)"
            mismatches.append(Mismatch(name, "channel", text + more, float(errors[worst]), channel_tolerance, worst))
    return mismatches


def _relative_errors(actual: Array, expected: Array) -> npt.NDArray[np.float64]:
    """The relative error of every row of two matrices."""
    # Squares of float32 values neither overflow nor vanish in float64; what float64 models hold is far from its limits.
    limits = _limits(expected.dtype)
    tiny = float(limits.tiny) if limits is not None else 0.0
    wide = expected.astype(np.float64)
    difference = np.linalg.norm(actual.astype(np.float64) - wide, axis=1)
    difference[difference < tiny * max(1.0, expected.shape[1] ** 0.5)] = 0
    norm = np.linalg.norm(wide, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / norm)


def _channel_errors(actual: Array, expected: Array, tolerance: float) -> npt.NDArray[np.float64]:
    """The relative error of every channel; 0 for single numbers that are within `tolerance` of the root mean square."""
    one, other = _channels(actual), _channels(expected)
    errors = _relative_errors(one, other)
    if other.shape[1] == 1:
        wide = other[:, 0].astype(np.float64)
        negligible = np.abs(one[:, 0].astype(np.float64) - wide) <= tolerance * np.sqrt(np.mean(wide**2))
        errors[negligible] = 0
    return errors


def _channels(value: Array) -> Array:
    """A matrix with a row for each index of axis 1."""
    return np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)


def _where_different(name: str, problem: str, verb: str, different: Array) -> list[Mismatch]:
    count = int(np.count_nonzero(different))
    if count == 0:
        return []
    first = [int(index) for index in np.argwhere(different)[0]]
    text = f"{verb} in {count} of {different.size} elements, first at {first}"
    return [Mismatch(name, problem, text, count / different.size, 0.0)]


def _limits(dtype: np.dtype[Any]) -> Any:
    """What numpy.finfo says of a float type, those included that numpy itself does not know; None of other types."""
    try:
        return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError):
        return None
