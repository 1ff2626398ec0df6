"""BatchNormalization in front of what changed: its statistics, estimated again in closed form.

A BatchNormalization that could not be folded reads y, where the original reads x. With

    scale' = scale * r,   r = deviation(x) / deviation(y),   shift' = shift + factor * (E[x] - m - r * (E[y] - m)),

its outputs have the original's mean and variance over samples, channel by channel; m is its mean, and factor is scale /
sqrt(variance + epsilon).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import FEWEST_VECTORS
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.patterns import constant, is_operator

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Normalization:
    """A normalization by known statistics.

    Attributes:
        node: That of the pruned graph.
        left: Which channels of the original's are left.
    """

    node: gs.Node
    left: npt.NDArray[np.bool_]

    @property
    def weights(self) -> gs.Constant:
        """Its scale."""
        return self.node.inputs[1]

    def fitted(self, graph: Graph, original: Sequence[Array], changed: Sequence[Array]) -> tuple[Array, Array] | None:
        """The scale that it takes, and what its outputs get added; None if nothing is known, or nothing changed.

        Args:
            graph: The original.
            original: What the original's reads in each sample.
            changed: What it reads.
        """
        original = [value[:, self.left] for value in original]
        if all(np.array_equal(one, other) for one, other in zip(original, changed, strict=True)):
            return None
        (mean, variance), (other_mean, other_variance) = (_moments(each) for each in (changed, original))
        values = sum(each.size for each in changed) // changed[0].shape[1]
        if values < FEWEST_VECTORS or not np.isfinite(variance).all() or not np.isfinite(other_variance).all():
            return None
        scale, _, centre, spread = (each.values.astype(np.float64) for each in self.node.inputs[1:5])
        ratio = np.sqrt(np.divide(other_variance, variance, out=np.ones_like(variance), where=variance > 0))
        factor = scale / np.sqrt(spread + float(self.node.attrs.get("epsilon", 1e-5)))
        shift = factor * (other_mean - centre - ratio * (mean - centre))
        return rounded((scale * ratio).astype(np.float32)), shift.astype(np.float32)


def find_normalizations(
    graph: Graph, pruned: Graph, structure: Structure, channels: Set[int]
) -> Iterator[Normalization]:
    """The normalizations of a pruned graph that have statistics of their own.

    Args:
        graph: The original.
        pruned: What is left of it.
        structure: What `find_groups` says of the original.
        channels: What is removed.
    """
    known = {node.name for node in graph.gs.nodes}
    for node in pruned.gs.nodes:
        if node.name in known and _can_be_estimated(node):
            labels = structure.axes[node.inputs[0].name][1]
            yield Normalization(node, np.isin(labels, sorted(channels), invert=True))


def _can_be_estimated(node: gs.Node) -> bool:
    return (
        is_operator(node, "BatchNormalization")
        and not node.attrs.get("training_mode", 0)
        and all((values := constant(tensor)) is not None and values.dtype == np.float32 for tensor in node.inputs[1:5])
        and all(len(tensor.outputs) == 1 for tensor in node.inputs[1:3])
    )


def _moments(values: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and variance of each channel over samples of equal size."""
    axes = (0, *range(2, values[0].ndim))
    mean = np.mean([value.mean(axis=axes, dtype=np.float64) for value in values], axis=0)
    square = np.mean([np.square(value, dtype=np.float64).mean(axis=axes) for value in values], axis=0)
    return mean, np.maximum(square - mean**2, 0.0)
