"""How long a run takes by how many channels of each group are gone.

A step takes time by the share of its multiplications that is left. That is measured of a few graphs that are pruned
alike everywhere, and between those it is on a line. What a step multiplies is its weights, each axis of which loses the
indices of some groups; a step without weights goes by the elements that it computes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.removal import remove
from lepton_compile.rewriting.patterns import constant

Steps = Mapping[str, float]
Counts = Sequence[int]

# Shares of the channels of each group that graphs are measured with.
_KEPT = 0.75, 0.5, 0.25


@dataclass(frozen=True)
class _Step:
    """A step of a run.

    Attributes:
        axes: For each axis of what it computes with, the groups that have indices of it, and what share each has.
        left: Shares of its multiplications, ascending.
        seconds: What it takes with each.
    """

    axes: tuple[tuple[tuple[int, float], ...], ...]
    left: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    def at(self, kept: Sequence[float]) -> float:
        """What it takes where these shares of the groups' channels are left."""
        return float(np.interp(_left(self.axes, kept), self.left, self.seconds))


class Latency:
    """What runs take.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        orders: In which order channels go.
        units: How many channels of each group go at a time.
        measure: Seconds of the steps of a graph.
    """

    def __init__(
        self,
        graph: Graph,
        structure: Structure,
        orders: Sequence[Order],
        units: Counts,
        measure: Callable[[Graph], Steps],
    ) -> None:
        self._sizes = [len(order.channels) for order in orders]
        whole = measure(graph)
        measured: list[tuple[Sequence[float], Steps]] = []
        for share in _KEPT:
            removed = [
                size - max(unit, round(share * size / unit) * unit) if size > unit else 0
                for size, unit in zip(self._sizes, units, strict=True)
            ]
            pruned = remove(graph.copy(), structure, channels_of(orders, removed))
            measured.append((self._kept(removed), measure(pruned)))
        axes = _Axes(graph, structure)
        self._steps = [self._step(axes.of(names), names, seconds, measured) for names, seconds in whole.items()]
        self._of_group: dict[int, list[_Step]] = defaultdict(list)
        for step in self._steps:
            for number in {number for axis in step.axes for number, _ in axis}:
                self._of_group[number].append(step)

    def seconds(self, removed: Counts) -> float:
        """What a run takes when so many channels of each group are gone."""
        kept = self._kept(removed)
        return math.fsum(step.at(kept) for step in self._steps)

    def saved(self, removed: Counts, number: int, more: int) -> float:
        """What is saved when so many more channels of one group go."""
        before = self._kept(removed)
        after = [*before]
        after[number] -= more / self._sizes[number]
        return math.fsum(step.at(before) - step.at(after) for step in self._of_group[number])

    def _kept(self, removed: Counts) -> list[float]:
        return [1 - gone / size for gone, size in zip(removed, self._sizes, strict=True)]

    @staticmethod
    def _step(
        axes: tuple[tuple[tuple[int, float], ...], ...],
        names: str,
        seconds: float,
        measured: Sequence[tuple[Sequence[float], Steps]],
    ) -> _Step:
        known = {1.0: seconds}
        nodes = set(names.split("\n"))
        for kept, steps in measured if axes else ():
            taken = math.fsum(each for others, each in steps.items() if nodes & set(others.split("\n")))
            if taken:
                known[_left(axes, kept)] = min(taken, seconds)
        if axes:
            known.setdefault(0.0, 0.0)
        left = np.array(sorted(known))
        return _Step(axes, left, np.maximum.accumulate([known[share] for share in left.tolist()]))


def channels_of(orders: Sequence[Order], removed: Counts) -> set[int]:
    """The channels that go when so many of each group do."""
    return {channel for order, gone in zip(orders, removed, strict=True) for channel in order.channels[:gone]}


def _left(axes: tuple[tuple[tuple[int, float], ...], ...], kept: Sequence[float]) -> float:
    return math.prod(1 - sum(share * (1 - kept[number]) for number, share in axis) for axis in axes)


class _Axes:
    """Which groups have indices of the axes that a step computes along."""

    def __init__(self, graph: Graph, structure: Structure) -> None:
        self._nodes = {node.name: node for node in graph.gs.nodes}
        self._structure = structure
        self._groups = {
            channel: number for number, group in enumerate(structure.prunable) for channel in group.channels
        }

    def of(self, names: str) -> tuple[tuple[tuple[int, float], ...], ...]:
        """For each such axis, the groups and their shares."""
        nodes = [self._nodes[name] for name in names.split("\n") if name in self._nodes]
        if not nodes:
            return ()
        weights = [self._weights(node) for node in nodes]
        largest = max(weights, key=lambda tensor: 0 if tensor is None else math.prod(tensor.shape))
        tensor = largest if largest is not None else nodes[-1].outputs[0]
        axes = (self._axis(labels) for labels in self._structure.axes.get(tensor.name, ()))
        return tuple(axis for axis in axes if axis)

    def _weights(self, node: gs.Node) -> gs.Tensor | None:
        if len(node.inputs) > 1 and node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN"):
            return node.inputs[1] if constant(node.inputs[1]) is not None else None
        return None

    def _axis(self, labels: npt.NDArray[np.int64]) -> tuple[tuple[int, float], ...]:
        counts: dict[int, int] = defaultdict(int)
        for label in labels.tolist():
            if label in self._groups:
                counts[self._groups[label]] += 1
        return tuple((number, count / len(labels)) for number, count in counts.items())
