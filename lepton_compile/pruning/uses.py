"""How much of a resource a graph takes by how many channels of each group are gone.

It is a sum of items, each of which goes by the share of it that is left: the product, over its axes, of what is left of
them, each of which loses the indices of some groups.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_compile.pruning.channels import Labels
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order

Counts = Sequence[int]


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor that loses indices.

    Attributes:
        shares: The groups that have indices of it, and what share of it each has.
        size: How many indices it has.
        together: How many indices are computed at a time: what is left of the last of them takes as long as all.
    """

    shares: tuple[tuple[int, float], ...]
    size: int
    together: int = 1

    def left(self, kept: Sequence[float]) -> float:
        """What share of it is left to compute where these shares of the groups' channels are."""
        share = 1 - sum(share * (1 - kept[number]) for number, share in self.shares)
        if self.together == 1:
            return share
        return -(-round(share * self.size) // self.together) / -(-self.size // self.together)


@dataclass(frozen=True)
class Item:
    """A part of what is taken.

    Attributes:
        axes: Its axes that lose indices.
        left: Shares of it, ascending.
        amounts: What it takes with each; between those it is on a line.
    """

    axes: tuple[Axis, ...]
    left: npt.NDArray[np.float64]
    amounts: npt.NDArray[np.float64]

    @classmethod
    def in_proportion(cls, axes: tuple[Axis, ...], amount: float) -> Item:
        """One that takes as much as is left of it."""
        return cls(axes, np.array([0.0, 1.0]), np.array([0.0, amount]))

    def at(self, kept: Sequence[float]) -> float:
        """What it takes where these shares of the groups' channels are left."""
        return float(np.interp(left_of(self.axes, kept), self.left, self.amounts))


class Use:
    """What a graph takes of a resource.

    Args:
        items: The parts.
        sizes: How many channels each group has.
    """

    def __init__(self, items: Sequence[Item], sizes: Counts) -> None:
        self._items = items
        self._sizes = sizes
        self._of_group: dict[int, list[Item]] = defaultdict(list)
        for item in items:
            for number in {number for axis in item.axes for number, _ in axis.shares}:
                self._of_group[number].append(item)

    def amount(self, removed: Counts) -> float:
        """What it takes when so many channels of each group are gone."""
        kept = kept_of(removed, self._sizes)
        return math.fsum(item.at(kept) for item in self._items)

    def saved(self, removed: Counts, number: int, more: int) -> float:
        """What is saved when so many more channels of one group go."""
        before = kept_of(removed, self._sizes)
        after = [*before]
        after[number] -= more / self._sizes[number]
        return math.fsum(item.at(before) - item.at(after) for item in self._of_group[number])


class Axes:
    """Which groups have indices of the axes of tensors.

    Args:
        structure: What `find_groups` says of a graph.
    """

    def __init__(self, structure: Structure) -> None:
        self._axes = structure.axes
        self._groups = {
            channel: number for number, group in enumerate(structure.prunable) for channel in group.channels
        }

    def of(self, tensor: str, vectors: int | None = None, lanes: int = 1) -> tuple[Axis, ...]:
        """The axes of a tensor that lose indices.

        Args:
            tensor: Its name.
            vectors: The axis whose indices are computed in vectors, if there is one.
            lanes: How many indices a vector has.
        """
        labelled = enumerate(self._axes.get(tensor, ()))
        axes = [self._axis(labels, lanes if axis == vectors else 1) for axis, labels in labelled]
        return tuple(axis for axis in axes if axis.shares)

    def _axis(self, labels: Labels, together: int) -> Axis:
        counts = Counter(self._groups[label] for label in labels.tolist() if label in self._groups)
        shares = tuple((number, count / len(labels)) for number, count in counts.items())
        return Axis(shares, len(labels), together)


def kept_of(removed: Counts, sizes: Counts) -> list[float]:
    """What share of each group's channels is left."""
    return [1 - gone / size for gone, size in zip(removed, sizes, strict=True)]


def left_of(axes: Sequence[Axis], kept: Sequence[float]) -> float:
    """What share is left of what has these axes, where these shares of the groups' channels are."""
    return math.prod(axis.left(kept) for axis in axes)


def channels_of(orders: Sequence[Order], removed: Counts) -> set[int]:
    """The channels that go when so many of each group do."""
    return {channel for order, gone in zip(orders, removed, strict=True) for channel in order.channels[:gone]}
