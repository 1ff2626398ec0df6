"""From budgets to the channels that go, and to what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from lepton_compile.evaluation.contract import Judgement
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.latency import seconds_of
from lepton_compile.pruning.optimizer import held_bytes, this_machine
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import NOTHING, Repair, apply
from lepton_compile.pruning.repairing import find_repairs
from lepton_compile.pruning.sensitivity import by_answers
from lepton_compile.pruning.storage import library_bytes, run_bytes
from lepton_compile.pruning.uses import Use, channels_of
from lepton_compile.pruning.widths import Goal, allocate, units_of
from lepton_compile.rewriting.limits import Limit, Resource
from lepton_compile.rewriting.passes import Context

# How many samples the importance of channels and the weights that make up for them are found with, at most.
_SAMPLES = 4096
# How often what is measured may correct what was expected.
_ATTEMPTS = 5
_NOT_REPAIRED = "no repair"
# What is aimed at, as a share of what may be taken.
_MARGIN = 0.97


@dataclass(frozen=True)
class Pruned:
    """A pruned graph that fits, and holds the contract or not.

    Attributes:
        removed: The indices that go, by tensors and axes: those of each group in the first place that it lies in.
        repair: What makes up for them.
        reason: Why, in one line.
        holds: Whether the contract does.
        refusals: The groups that stay, each with why.
        findings: For the report, as JSON values.
    """

    removed: tuple[tuple[str, int, tuple[int, ...]], ...]
    repair: Repair
    reason: str
    holds: bool
    refusals: tuple[str, ...]
    findings: Mapping[str, object]


@dataclass(frozen=True)
class TooMuch:
    """Why no pruned graph fits."""

    reason: str
    refusals: tuple[str, ...] = ()


class Planner:
    """Prunes one graph for budgets.

    Args:
        graph: The graph.
        lanes: How many float32 numbers a vector register holds.
        context: Samples of its contract tell what channels matter, and it judges; its `measure` says what steps take.
        limits: What is limited; how far, `within` is told.
    """

    def __init__(self, graph: Graph, lanes: int, context: Context, limits: Sequence[Limit]) -> None:
        assert context.contract is not None
        context.contract.observe(graph, {})
        self._graph = graph
        self._contract = context.contract
        self._limits = limits
        self._samples = [each.sample.inputs for each in self._contract.samples(_SAMPLES)]
        self._structure = find_groups(graph)
        self._machine = this_machine()
        held = held_bytes(self._machine)
        order = orders(graph, self._structure, Importance.RECONSTRUCTION, self._samples, held)
        self._orders = by_answers(graph, self._structure, order, self._samples, held)
        self._lanes = lanes
        self._units = units_of(self._structure, lanes)
        self._before = [limit.taken(graph) for limit in limits]
        self._uses = [self._use(context, limit, before) for limit, before in zip(limits, self._before, strict=True)]
        self._refusals = tuple(f"{group.name}: {group.frozen}" for group in self._structure.groups if group.frozen)

    def within(self, most: Sequence[float]) -> Pruned | TooMuch:
        """Remove channels until no more is taken than this.

        Args:
            most: What may be taken of each resource that is limited.
        """
        if not self._structure.prunable:
            return TooMuch("no channels can be removed", self._refusals)
        found = self._few_enough(most)
        if isinstance(found, TooMuch):
            return found
        counts, after = found
        channels = channels_of(self._orders, counts)
        repairs = find_repairs(self._graph, self._structure, channels, self._samples, self._machine)
        tried = {_NOT_REPAIRED: NOTHING} | dict(repairs.found)
        judged = {name: self._contract.judge(apply(each, self._without(channels))) for name, each in tried.items()}
        best = best_repair(judged, self._contract.max_drop)
        repair, judgement = tried[best], judged[best]
        gone = f"{len(channels)} channels of {sum(count > 0 for count in counts)} groups go"
        less = [
            f"{limit.amount(taken)} become {limit.amount(left)}"
            for limit, taken, left in zip(self._limits, self._before, after, strict=True)
        ]
        metric = f"{self._contract.metric_name} {judgement} by {best}"
        reason = f"{gone}, so that {' and '.join(less)}; {metric}; {repairs.reason}"
        findings: dict[str, object] = {
            "before": {limit.resource.value: taken for limit, taken in zip(self._limits, self._before, strict=True)},
            "after": {limit.resource.value: taken for limit, taken in zip(self._limits, after, strict=True)},
            "metric": {
                "name": self._contract.metric_name,
                "original": judgement.original,
                "pruned": _number(judgement.value),
                "pruned and not repaired": _number(judged[_NOT_REPAIRED].value),
                **{f"by {name}": _number(judged[name].value) for name in repairs.found},
                "standard error of the difference": judgement.error,
                "samples held out": judgement.samples,
                "most it may drop": self._contract.max_drop,
            },
            "groups": [
                {"group": group.name, "channels": len(group.channels), "left": len(group.channels) - count}
                for group, count in zip(self._structure.prunable, counts, strict=True)
            ],
        }
        holds = judgement.expected_drop <= self._contract.max_drop
        return Pruned(self._removed(counts), repair, reason, holds, self._refusals, findings)

    def _use(self, context: Context, limit: Limit, whole: float) -> Use:
        if limit.resource is Resource.SIZE:
            return library_bytes(self._graph, self._structure, whole)
        if limit.resource is Resource.MEMORY:
            return run_bytes(self._graph, self._structure, whole)
        assert context.measure is not None
        return seconds_of(self._graph, self._structure, self._orders, self._units, self._lanes, context.measure)

    def _without(self, channels: Set[int]) -> Graph:
        return remove(self._graph.copy(), self._structure, channels)

    def _taken(self, counts: Sequence[int]) -> list[float]:
        pruned = self._without(channels_of(self._orders, counts))
        return [limit.taken(pruned) for limit in self._limits]

    def _few_enough(self, most: Sequence[float]) -> tuple[list[int], list[float]] | TooMuch:
        """How many channels of each group go, and what is taken then."""
        aims = [_MARGIN * each for each in most]
        least = [float("inf")] * len(most)
        for attempt in range(_ATTEMPTS):
            goals = [Goal(use, aim) for use, aim in zip(self._uses, aims, strict=True)]
            # What is expected may be wrong by more than corrections reach: in the end as many go as can.
            counts = allocate(self._orders, self._units, goals) if attempt < _ATTEMPTS - 1 else None
            everything = counts is None
            if counts is None:
                pairs = zip(self._orders, self._units, strict=True)
                counts = [max(0, len(order.channels) - unit) for order, unit in pairs]
            taken = self._taken(counts)
            if all(one <= other for one, other in zip(taken, most, strict=True)):
                return counts, taken
            least = list(map(min, least, taken))
            if everything:
                break
            aims = [aim * min(1.0, _MARGIN * each / one) for aim, each, one in zip(aims, most, taken, strict=True)]
        missed = [
            replace(limit, most=most[place]).compared(least[place], "with as few channels as were tried")
            for place, limit in enumerate(self._limits)
            if least[place] > most[place]
        ]
        return TooMuch("; ".join(missed), self._refusals)

    def _removed(self, counts: Sequence[int]) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
        found = []
        for group, order, count in zip(self._structure.prunable, self._orders, counts, strict=True):
            if count:
                name, axis = group.places[0]
                gone = set(order.channels[:count])
                labels = self._structure.axes[name][axis].tolist()
                found.append((name, axis, tuple(index for index, label in enumerate(labels) if label in gone)))
        return tuple(found)


def best_repair(judged: Mapping[str, Judgement], most: float) -> str:
    """The repair to take: one that holds the contract, if any does.

    Of those that the metric cannot tell from the best, the last: what was fitted further is nearer to the original.

    Args:
        judged: What the contract says of each, by name, those that were fitted further behind the others.
        most: How much the metric may drop.
    """
    holding = [name for name, judgement in judged.items() if judgement.expected_drop <= most] or list(judged)
    best = judged[max(holding, key=lambda name: judged[name].value)]
    return [name for name in holding if judged[name].value >= best.value - best.error][-1]


def _number(value: float) -> float | None:
    """A number as JSON has it: none where answers were no numbers."""
    return value if math.isfinite(value) else None
