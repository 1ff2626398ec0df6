"""Observers: from the values that a tensor takes to the range that eight bits stand for.

A narrow range has fine steps and clips; which one loses least is for the histogram to say. The candidates:

- "minmax": all values;
- "extreme": what one in ten times as many samples is expected to exceed;
- "percentile": but for one in ten thousand at either end;
- "entropy": what least changes the distribution, by the Kullback-Leibler divergence (Migacz, "8-bit inference with
  TensorRT", GTC 2017; here between the counts before and after quantization, over all bins);
- "mse": the fraction of the range that has the least mean squared error.

The loss is the mean squared error, in which what is clipped and what is rounded both count. Each range holds 0, which
padding and rectifiers make of the most frequent value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.histogram import Histogram

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEVELS = 255
"""Steps that unsigned bytes have between their ends."""
# Of so many samples one has a value that tells of the tail, and of how many times as many one may exceed a range.
_PEAKS = 8
_MORE = 10
# At either end, for the percentile.
_TAIL = 1e-4
# Fractions of the range that the least error is looked for at.
_FRACTIONS = np.geomspace(0.02, 1.0, 80)
# Like one count in all bins, so that no bin is impossible.
_SMOOTHING = 1e-9


@dataclass(frozen=True)
class Range:
    """What the integers from 0 to 255 stand for.

    Attributes:
        scale: The value of one step, a float32 number.
        zero: The integer that stands for 0.
        observer: Which rule chose it.
        loss: Mean squared error over mean square: 1 over the signal-to-noise ratio.
    """

    scale: float
    zero: int
    observer: str
    loss: float


def candidate_ranges(histogram: Histogram, ends: Sequence[tuple[float, float]]) -> list[Range]:
    """The range of each observer, the one that loses least on the values counted first; equal ones once.

    Args:
        histogram: The values.
        ends: The smallest and the largest value of each sample.
    """
    values, counts = histogram.bins()
    candidates: dict[str, tuple[float, float]] = {
        "minmax": (histogram.lowest, histogram.highest),
        "extreme": (-_extreme([-low for low, _ in ends]), _extreme([high for _, high in ends])),
        "percentile": _percentile(values, counts),
        "entropy": _entropy(values, counts),
        "mse": _least_error(values, counts),
    }
    ranges = [_range(low, high, observer, values, counts) for observer, (low, high) in candidates.items()]
    different = {(each.scale, each.zero): each for each in reversed(ranges)}
    return sorted(different.values(), key=lambda each: each.loss)


def _range(low: float, high: float, observer: str, values: Floats, counts: Counts) -> Range:
    scale, zero = parameters(low, high)
    power = float(counts @ values**2)
    error = float(counts @ (quantized(values, scale, zero) - values) ** 2)
    return Range(scale, zero, observer, error / power if power else 0.0)


def parameters(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point for a range, widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / LEVELS)) or 1.0
    return scale, round(min(max(-low / scale, 0), LEVELS))


def quantized(values: Floats, scale: float, zero: int) -> Floats:
    """What values become."""
    steps = np.clip(np.rint(values / scale) + zero, 0, LEVELS)
    return np.asarray((steps - zero) * scale)


def _percentile(values: Floats, counts: Counts) -> tuple[float, float]:
    share = np.cumsum(counts) / counts.sum()
    low, high = np.searchsorted(share, [_TAIL, 1 - _TAIL])
    return float(values[low]), float(values[min(high, len(values) - 1)])


def _extreme(largest: Sequence[float]) -> float:
    """What one in ten times as many samples exceeds, by an exponential tail of the largest values of samples.

    Beyond a threshold that k of n samples exceed, by b on average, one in 10 n exceeds it by b log(10 k) (peaks over
    threshold; Pickands, "Statistical inference using extreme order statistics", 1975, with an index of 0).
    """
    found = np.sort(np.asarray(largest, np.float64))
    beyond = -(-len(found) // _PEAKS)
    threshold = found[-beyond - 1] if len(found) > beyond else found[-1]
    excess = float((found[-beyond:] - threshold).mean())
    return max(float(found[-1]), float(threshold + excess * np.log(_MORE * beyond)))


def _ranges(values: Floats) -> list[tuple[float, float]]:
    """Fractions of the range around 0."""
    low, high = min(values[0], 0.0), max(values[-1], 0.0)
    return [(float(low * fraction), float(high * fraction)) for fraction in _FRACTIONS]


def _least_error(values: Floats, counts: Counts) -> tuple[float, float]:
    return min(_ranges(values), key=lambda ends: _range(ends[0], ends[1], "mse", values, counts).loss)


def _entropy(values: Floats, counts: Counts) -> tuple[float, float]:
    return min(_ranges(values), key=lambda ends: _divergence(ends[0], ends[1], values, counts))


def _divergence(low: float, high: float, values: Floats, counts: Counts) -> float:
    """The Kullback-Leibler divergence from the values to what is left of them, the counts of a step spread evenly."""
    scale, zero = parameters(low, high)
    steps = np.clip(np.rint(values / scale) + zero, 0, LEVELS).astype(np.int64)
    inside = (values >= low) & (values <= high)
    # What lies outside is clipped: it adds to the counts of the outermost step, inside the range.
    bins = np.bincount(steps[inside], minlength=LEVELS + 1)
    total = np.bincount(steps, counts, minlength=LEVELS + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(inside, total[steps] / np.maximum(bins[steps], 1), 0.0)
    before = counts / counts.sum() + _SMOOTHING
    after = spread / counts.sum() + _SMOOTHING
    return float(before @ np.log(before / after))
