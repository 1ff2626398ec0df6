"""A histogram of numbers that come in parts, of a range that is not known before.

Bins are of width 2^k, and bin i counts what lies in [i 2^k, (i + 1) 2^k). Where more than `BINS` would be needed, pairs
of bins become one and k grows by 1: no count is lost or moved, so that the order of the parts does not matter.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 4096
"""The most bins; at least half as many cover the range, where it is not a single number."""
# 2^-k is a float64 number, too.
_FINEST = -1000


class Histogram:
    """Counts of numbers by bins.

    Attributes:
        count: How many numbers were added.
        lowest: The smallest; infinity if there is none.
        highest: The largest; minus infinity if there is none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.lowest = math.inf
        self.highest = -math.inf
        self._exponent = 0
        self._first = 0
        self._counts = np.zeros(0, np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count finite numbers."""
        if values.size == 0:
            return
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        exponent = _exponent(self.lowest, self.highest)
        if self.count == 0:
            self._exponent = exponent
        self._coarsen(max(self._exponent, exponent))
        self._widen()
        places = np.floor(np.multiply(flat, 2.0**-self._exponent, dtype=np.float64)).astype(np.int64) - self._first
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.count += flat.size

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has counted."""
        if other.count == 0:
            return
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        if self.count == 0:
            self._exponent = other._exponent
        exponent = max(self._exponent, other._exponent, _exponent(self.lowest, self.highest))
        same = copy.copy(other)
        self._coarsen(exponent)
        same._coarsen(exponent)
        self._widen()
        place = same._first - self._first
        self._counts[place : place + len(same._counts)] += same._counts
        self.count += other.count

    def bins(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The middles of the bins, within the range of the numbers, and their counts; only bins that have any."""
        taken = np.flatnonzero(self._counts)
        width = 2.0**self._exponent
        middles = (taken + self._first + 0.5) * width
        return np.clip(middles, self.lowest, self.highest), self._counts[taken]

    def _widen(self) -> None:
        """Give every value between the lowest and the highest a bin."""
        width = 2.0**self._exponent
        first, last = math.floor(self.lowest / width), math.floor(self.highest / width)
        counts = np.zeros(last - first + 1, np.int64)
        if len(self._counts):
            counts[self._first - first : self._first - first + len(self._counts)] = self._counts
        self._first, self._counts = first, counts

    def _coarsen(self, exponent: int) -> None:
        """Join bins until they are of width 2^exponent."""
        while self._exponent < exponent and len(self._counts):
            if self._first % 2:
                self._counts = np.concatenate([np.zeros(1, np.int64), self._counts])
            if len(self._counts) % 2:
                self._counts = np.concatenate([self._counts, np.zeros(1, np.int64)])
            self._counts = self._counts.reshape(-1, 2).sum(axis=1)
            self._first = self._first // 2
            self._exponent += 1
        self._exponent = exponent


def _exponent(low: float, high: float) -> int:
    """A k for which [low, high] meets at most `BINS` bins of width 2^k; never smaller for a larger range."""
    extent = max(high - low, abs(low) * 2**-40, abs(high) * 2**-40)
    if extent == 0:
        return _FINEST
    k = max(_FINEST, math.frexp(extent / BINS)[1])
    while math.floor(high / 2.0**k) - math.floor(low / 2.0**k) >= BINS:
        k += 1
    return k
