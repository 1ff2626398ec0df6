"""In which order the channels of each group go, and what each costs of what the layers that read it compute.

- L1 and L2: the norm of the weights that make a channel (Li et al., 2017, arXiv:1608.08710), as a share of its group's;
- activation: the mean square of a channel times the square of the weights that read it: what the output of a layer
  loses if channels do not depend on each other;
- reconstruction: what it loses where the other channels, and its bias, make up for it as well as they can. With C the
  covariance of channels that is the square of the weights over the diagonal of C^-1; the channel that costs least goes,
  weights and C^-1 become those of the others, and so on (Hassibi and Stork, "Second order derivatives for network
  pruning: optimal brain surgeon", 1992).

Costs are shares of the variance of a layer's output, summed over the layers that read a channel.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.covariances import LARGEST_INNER
from lepton_compile.evaluation.stages import HELD_BYTES, as_many_as_held, in_stages
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Group, Structure
from lepton_compile.pruning.sums import Sum, sums
from lepton_compile.rewriting.patterns import constant, is_operator

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Samples = Sequence[Mapping[str, Array]]

# What is added to the diagonal of C, as a share of its mean.
_DAMPING = 0.01


class Importance(enum.Enum):
    """A measure of how much channels matter."""

    L1 = "l1"
    L2 = "l2"
    ACTIVATION = "activation"
    RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Order:
    """In which order channels of a group go.

    Attributes:
        channels: Their labels.
        costs: What each costs once those before it are gone.
    """

    channels: tuple[int, ...]
    costs: tuple[float, ...]


def orders(
    graph: Graph, structure: Structure, by: Importance, samples: Samples = (), held_bytes: int = HELD_BYTES
) -> list[Order]:
    """The order of each group whose channels may go.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        by: The measure.
        samples: Inputs of the graph; the norms need none.
        held_bytes: What its inner tensors may take, of all samples together.
    """
    if by in (Importance.L1, Importance.L2):
        return _by_weights(graph, structure, 1 if by is Importance.L1 else 2)
    readers = _readers(graph, structure, samples, held_bytes)
    found = [_order(group, readers, by) for group in structure.prunable]
    # Of what is read by no known weights, as queries and keys are, all that tells is what makes it.
    norms = _by_weights(graph, structure, 2)
    return [order if any(order.costs) else norm for order, norm in zip(found, norms, strict=True)]


@dataclass(frozen=True)
class _Reader:
    """A layer that sums over channels.

    Attributes:
        labels: Those of the channels that it reads.
        moments: E[x'x] of what it reads.
        covariance: The same around the mean.
        weights: By channels, and all else.
    """

    labels: npt.NDArray[np.int64]
    moments: Doubles
    covariance: Doubles
    weights: Doubles


def _readers(graph: Graph, structure: Structure, samples: Samples, held_bytes: int) -> list[_Reader]:
    free = [channel for group in structure.prunable for channel in group.channels]
    by_axis: dict[str, dict[int, list[Sum]]] = defaultdict(lambda: defaultdict(list))
    for each in sums(graph):
        if np.isin(structure.axes[each.reads.name][each.axis], free).any():
            by_axis[each.reads.name][each.axis].append(each)
    names = list(by_axis)
    held = as_many_as_held(graph, names, samples, held_bytes)
    found = []
    for name, values in zip(names, in_stages(graph, names, held), strict=True):
        for axis, layers in by_axis[name].items():
            moments, mean = _moments(values, axis)
            for layer in layers:
                weights = np.moveaxis(layer.weights.values, layer.weights_axis, 0).reshape(len(moments), -1)
                labels, covariance = structure.axes[name][axis], moments - np.outer(mean, mean)
                found.append(_Reader(labels, moments, covariance, weights.astype(np.float64)))
    return found


def _moments(values: Sequence[Array], axis: int) -> tuple[Doubles, Doubles]:
    """E[x'x] and E[x] of the channels along an axis."""
    total, mean, count = np.zeros((), np.float64), np.zeros((), np.float64), 0
    for value in values:
        rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        total, mean, count = total + (rows.T @ rows).astype(np.float64), mean + rows.sum(axis=0), count + len(rows)
    return total / count, mean / count


def _order(group: Group, readers: Sequence[_Reader], by: Importance) -> Order:
    """The channel that costs least goes first."""
    eliminating = [
        _Eliminating(reader, places, by) for reader in readers if (places := _places(reader.labels, group)) is not None
    ]
    left = np.ones(len(group.channels), bool)
    channels, costs = [], []
    for _ in group.channels:
        total = sum((each.costs(len(left)) for each in eliminating), np.zeros(len(left)))
        goes = int(np.where(left, total, np.inf).argmin())
        channels.append(group.channels[goes])
        costs.append(float(total[goes]))
        left[goes] = False
        for each in eliminating:
            each.eliminate(goes)
    return Order(tuple(channels), tuple(costs))


def _places(labels: npt.NDArray[np.int64], group: Group) -> npt.NDArray[np.int64] | None:
    """Which channel of a group each index is of, -1 of none; None if no index is of any."""
    members = np.array(group.channels)
    found = np.searchsorted(members, labels).clip(max=len(members) - 1)
    places = np.where(members[found] == labels, found, -1)
    return places if (places >= 0).any() else None


class _Eliminating:
    """A layer while channels of a group go."""

    def __init__(self, reader: _Reader, places: npt.NDArray[np.int64], by: Importance) -> None:
        self._places = places
        self._weights = reader.weights.copy()
        self._whole = float((reader.weights * (reader.covariance @ reader.weights)).sum()) or 1.0
        self._inverse: Doubles | None = None
        self._squares = np.square(self._weights).sum(axis=1) * np.diagonal(reader.moments)
        if by is Importance.RECONSTRUCTION and len(places) <= LARGEST_INNER:
            damping = _DAMPING * np.trace(reader.covariance) / len(places) or 1.0
            self._inverse = np.linalg.inv(reader.covariance + damping * np.eye(len(places)))

    def costs(self, count: int) -> Doubles:
        """What each of so many channels costs."""
        squares = self._squares
        if self._inverse is not None:
            squares = np.square(self._weights).sum(axis=1) / np.diagonal(self._inverse)
        members = self._places >= 0
        return np.bincount(self._places[members], squares[members] / self._whole, count).astype(np.float64)

    def eliminate(self, channel: int) -> None:
        """The others make up for a channel."""
        for index in np.flatnonzero(self._places == channel) if self._inverse is not None else ():
            assert self._inverse is not None
            column = self._inverse[:, index].copy()
            self._weights -= np.outer(column / column[index], self._weights[index])
            self._inverse -= np.outer(column, column / column[index])
            self._inverse[index, index] = 1.0  # of an index that is gone, whose weights are zero
            self._weights[index] = 0.0


def _by_weights(graph: Graph, structure: Structure, power: int) -> list[Order]:
    """By norms of what makes each channel: weights whose channels are what a node computes."""
    read = {(each.weights.name, each.weights_axis) for each in sums(graph)}
    made = {each.weights.name: each.weights for each in sums(graph)}
    for node in graph.gs.nodes:
        if is_operator(node, "Conv", "ConvTranspose") and constant(node.inputs[1]) is not None:
            made[node.inputs[1].name] = node.inputs[1]
    found = []
    for group in structure.prunable:
        totals = np.zeros(len(group.channels))
        for tensor, axis in group.places:
            if tensor in made and (tensor, axis) not in read:
                values = np.moveaxis(np.abs(made[tensor].values), axis, 0).reshape(made[tensor].shape[axis], -1)
                norms = (values.astype(np.float64) ** power).sum(axis=1) ** (1 / power)
                places = _places(structure.axes[tensor][axis], group)
                if places is not None:
                    totals += np.bincount(places[places >= 0], norms[places >= 0], len(totals))
        order = np.argsort(totals, kind="stable")
        shares = totals[order] / (totals.sum() or 1.0)
        found.append(Order(tuple(np.array(group.channels)[order].tolist()), tuple(shares.tolist())))
    return found
