"""BatchNormalization in front of what changed: its statistics, estimated again in closed form.

A BatchNormalization that could not be folded reads y, where the original reads x. With

    scale' = scale * r,   r = deviation(x) / deviation(y),   shift' = shift + factor * (E[x] - m - r * (E[y] - m)),

its outputs have the original's mean and variance over samples, channel by channel; m is its mean, and factor is scale /
sqrt(variance + epsilon).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import FEWEST_VECTORS
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.patterns import constant, is_operator

Array = npt.NDArray[Any]


def can_be_estimated(node: gs.Node) -> bool:
    """Whether it is a normalization by known statistics of its own."""
    return (
        is_operator(node, "BatchNormalization")
        and not node.attrs.get("training_mode", 0)
        and all(constant(tensor) is not None for tensor in node.inputs[1:5])
        and all(len(tensor.outputs) == 1 for tensor in node.inputs[1:3])
    )


def estimated(node: gs.Node, changed: Sequence[Array], original: Sequence[Array]) -> tuple[Array, Array] | None:
    """The scale that a normalization takes, and what its outputs get added; None if nothing is known.

    Args:
        node: The normalization in the pruned graph.
        changed: What it reads in each sample.
        original: What the original's reads, of the channels that are left.
    """
    (mean, variance), (other_mean, other_variance) = (_moments(each) for each in (changed, original))
    values = sum(each.size for each in changed) // changed[0].shape[1]
    if values < FEWEST_VECTORS or not np.isfinite(variance).all() or not np.isfinite(other_variance).all():
        return None
    scale, _, centre, spread = (each.values.astype(np.float64) for each in node.inputs[1:5])
    ratio = np.sqrt(np.divide(other_variance, variance, out=np.ones_like(variance), where=variance > 0))
    factor = scale / np.sqrt(spread + float(node.attrs.get("epsilon", 1e-5)))
    shift = factor * (other_mean - centre - ratio * (mean - centre))
    return rounded((scale * ratio).astype(np.float32)), shift.astype(np.float32)


def _moments(values: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and variance of each channel over samples of equal size."""
    axes = (0, *range(2, values[0].ndim))
    mean = np.mean([value.mean(axis=axes, dtype=np.float64) for value in values], axis=0)
    square = np.mean([np.square(value, dtype=np.float64).mean(axis=axes) for value in values], axis=0)
    return mean, np.maximum(square - mean**2, 0.0)
