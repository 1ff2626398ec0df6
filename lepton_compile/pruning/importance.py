"""How much channels matter: what removing each costs, as a share of what the layers that read it compute.

- L1 and L2: the norm of the weights that make a channel (Li et al., 2017, arXiv:1608.08710), as a share of its group's;
- activation: the mean square of a channel times the square of the weights that read it: what the output of a layer
  loses if channels do not depend on each other;
- reconstruction: what it loses where the other channels, and its bias, make up for it as well as they can. With C the
  covariance of channels that is the square of the weights over the diagonal of C^-1 (Hassibi and Stork, "Second order
  derivatives for network pruning: optimal brain surgeon", 1992).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.stages import in_stages, most_held
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.sums import Sum, sums

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# What is held of all samples at a time.
_HELD_BYTES = 64 << 20
# What is added to the diagonal of C, as a share of its mean.
_DAMPING = 0.01


class Importance(enum.Enum):
    """A measure of how much channels matter."""

    L1 = "l1"
    L2 = "l2"
    ACTIVATION = "activation"
    RECONSTRUCTION = "reconstruction"


def importances(graph: Graph, structure: Structure, by: Importance, samples: Samples = ()) -> dict[int, float]:
    """What each channel that may go costs, by its label.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        by: The measure.
        samples: Inputs of the graph; the norms need none.
    """
    if by in (Importance.L1, Importance.L2):
        return _by_weights(graph, structure, 1 if by is Importance.L1 else 2)
    free = {channel for group in structure.prunable for channel in group.channels}
    found: dict[int, float] = defaultdict(float, dict.fromkeys(sorted(free), 0.0))
    readers: dict[tuple[str, int], list[Sum]] = defaultdict(list)
    for each in sums(graph):
        if free & set(structure.axes[each.reads.name][each.axis].tolist()):
            readers[each.reads.name, each.axis].append(each)
    names = list(dict.fromkeys(name for name, _ in readers))
    most = max(1, _HELD_BYTES // max(1, most_held(graph, names)))
    for name, values in zip(names, in_stages(graph, names, samples[:most]), strict=True):
        for (read, axis), layers in readers.items():
            if read != name:
                continue
            moments, mean = _moments(values, axis)
            for layer in layers:
                costs = _costs(moments, mean, layer, by)
                for channel, cost in zip(structure.axes[name][axis].tolist(), costs.tolist(), strict=True):
                    if channel in free:
                        found[channel] += cost
    return dict(found)


def _moments(values: Sequence[Array], axis: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """E[x'x] and E[x] of the channels along an axis."""
    total, mean, count = np.zeros((), np.float64), np.zeros((), np.float64), 0
    for value in values:
        rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        total, mean, count = total + (rows.T @ rows).astype(np.float64), mean + rows.sum(axis=0), count + len(rows)
    return total / count, mean / count


def _costs(
    moments: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], layer: Sum, by: Importance
) -> npt.NDArray[np.float64]:
    """What removing each channel costs the output of a layer, as a share of that."""
    weights = np.moveaxis(layer.weights.values, layer.weights_axis, 0).reshape(len(moments), -1).astype(np.float64)
    squares = np.square(weights).sum(axis=1)
    if by is Importance.RECONSTRUCTION:
        moments = moments - np.outer(mean, mean)
    whole = float((weights * (moments @ weights)).sum()) or 1.0
    if by is Importance.ACTIVATION:
        return np.asarray(squares * np.diagonal(moments) / whole)
    damping = _DAMPING * np.trace(moments) / len(moments) or 1.0
    inverse = np.linalg.inv(moments + damping * np.eye(len(moments)))
    return np.asarray(squares / np.diagonal(inverse) / whole)


def _by_weights(graph: Graph, structure: Structure, power: int) -> dict[int, float]:
    """Norms of what makes each channel: weights whose channels are what a node computes."""
    read = {(each.weights.name, each.weights_axis) for each in sums(graph)}
    made = {each.weights.name: each.weights for each in sums(graph)}
    made |= {
        node.inputs[1].name: node.inputs[1]
        for node in graph.gs.nodes
        if node.op in ("Conv", "ConvTranspose") and hasattr(node.inputs[1], "values")
    }
    found: dict[int, float] = {}
    for group in structure.prunable:
        totals = dict.fromkeys(group.channels, 0.0)
        for tensor, axis in group.places:
            if tensor in made and (tensor, axis) not in read:
                values = np.moveaxis(np.abs(made[tensor].values), axis, 0).reshape(made[tensor].shape[axis], -1)
                norms = (values**power).sum(axis=1) ** (1 / power)
                for channel, norm in zip(structure.axes[tensor][axis].tolist(), norms.tolist(), strict=True):
                    if channel in totals:
                        totals[channel] += norm
        whole = sum(totals.values()) or 1.0
        found |= {channel: norm / whole for channel, norm in totals.items()}
    return found
