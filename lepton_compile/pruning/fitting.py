"""Weights with which what is left of a layer comes nearest to what the original computes: least squares in closed form.

Of what the layer reads, y, what it is to compute, t, and the weights V that are left of the original's,

    E|y W' + b - t|^2 + d |W' - V|^2 is least where (C[y'y] + d) W' = C[y't] + d V,   b = E[t] - E[y] W',

with C covariances (He et al., "Channel pruning for accelerating very deep neural networks", 2017, arXiv:1707.06168).

Where a rectifier follows, all that is below zero is the same to it. So what is below in both counts as reached already:
t is what the layer computes there, and everything is fitted anew, a few times. The error behind the rectifier never
grows by that (Zhang et al., "Accelerating very deep convolutional networks for classification and detection", 2015,
arXiv:1505.06798, fit layers to what rectifiers leave of them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.covariances import FEWEST_VECTORS, Covariances, covariances, damped, least_squares

Array = npt.NDArray[Any]

# d, as shares of the mean variance of what a layer reads. The one is taken with which what is fitted to every other
# sample is best on those between.
_DAMPINGS = 0.001, 0.01, 0.1, 1.0
# How often what is cut off is fitted anew; after that little changes.
_ROUNDS = 10


@dataclass(frozen=True)
class Limits:
    """Between which numbers what reads a layer's outputs tells them apart."""

    low: float = -math.inf
    high: float = math.inf

    def goal(self, made: Array, wanted: Array) -> Array:
        """What is wanted, or else what is made where that is as good."""
        alike = ((made <= self.low) & (wanted <= self.low)) | ((made >= self.high) & (wanted >= self.high))
        return np.where(alike, made, wanted)


EVERYWHERE = Limits()
"""Everything is told apart."""


@dataclass(frozen=True)
class Fit:
    """What comes nearest.

    Attributes:
        weights: W', by groups, inputs and outputs.
        read: E[y], by groups and inputs.
        computed: E[y] W' + b, by groups and outputs.
    """

    weights: Array
    read: Array
    computed: Array

    def offsets(self, weights: Array) -> Array:
        """b, by groups and outputs, with weights that are next to these."""
        found: Array = self.computed - (self.read[:, None] @ weights)[:, 0]
        return found


def fit(read: Sequence[Array], wanted: Sequence[Array], near: Array, limits: Limits = EVERYWHERE) -> Fit | None:
    """The weights that come nearest to what is wanted; None where too little is known.

    Args:
        read: y in each sample, by groups, vectors and inputs.
        wanted: t in each sample, by groups, vectors and outputs.
        near: V, by groups, inputs and outputs.
        limits: What of the outputs is told apart.
    """
    known = covariances(read, wanted)
    if not known.finite or known.vectors < FEWEST_VECTORS:
        return None
    damping = _DAMPINGS[-1]
    if len(read) > 1:
        fitting, judging = (covariances(read[first::2], wanted[first::2]) for first in (0, 1))
        damping = min(_DAMPINGS, key=lambda each: _lost(judging, _weights(fitting, near, each)))
    weights = _weights(known, near, damping)
    if limits != EVERYWHERE:
        outputs = np.concatenate(wanted, axis=1)
        around = np.concatenate(read, axis=1) - known.mean[:, None]
        inverse = np.linalg.inv(damped(known, damping)).astype(np.float32)
        for _ in range(_ROUNDS):
            goal = limits.goal(around @ weights + known.other_mean[:, None], outputs)
            mixed = around.swapaxes(1, 2) @ goal / np.float32(known.vectors)
            known = replace(known, other_mean=goal.mean(axis=1), mixed=mixed)
            weights = near + inverse @ (mixed - known.moments @ near)
    return Fit(weights, known.mean, known.other_mean)


def _weights(known: Covariances, near: Array, damping: float) -> npt.NDArray[np.float32]:
    return least_squares(known, np.eye(near.shape[2]), near, damping)


def _lost(known: Covariances, weights: Array) -> float:
    """The variance of y W' - t, but for what does not depend on W'."""
    return float((weights * (known.moments @ weights - 2 * known.mixed)).sum())
