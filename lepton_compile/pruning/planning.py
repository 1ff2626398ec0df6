"""From a budget for latency to the channels that go, and to what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from lepton_compile.evaluation.contract import Contract
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.latency import Latency, Steps, channels_of
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import NOTHING, Repair, apply
from lepton_compile.pruning.repairing import find_repairs
from lepton_compile.pruning.sensitivity import by_answers
from lepton_compile.pruning.widths import allocate, units_of

# How many samples the importance of channels and the weights that make up for them are found with, at most.
_SAMPLES = 512
# How often what is measured may correct what was expected.
_ATTEMPTS = 4
_NOT_REPAIRED = "no repair"
# What is aimed at, as a share of the budget.
_MARGIN = 0.97


@dataclass(frozen=True)
class Pruned:
    """A pruned graph that is fast enough, and holds the contract or not.

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
class TooSlow:
    """Why no pruned graph is fast enough."""

    reason: str
    refusals: tuple[str, ...] = ()


class Planner:
    """Prunes one graph for budgets.

    Args:
        graph: The graph.
        lanes: How many float32 numbers a vector register holds.
        contract: Its samples tell what channels matter, and it judges.
        measure: Seconds of the steps of a graph.
    """

    def __init__(self, graph: Graph, lanes: int, contract: Contract, measure: Callable[[Graph], Steps]) -> None:
        contract.observe(graph, {})
        self._graph = graph
        self._contract = contract
        self._measure = measure
        self._samples = [each.sample.inputs for each in contract.samples(_SAMPLES)]
        self._structure = find_groups(graph)
        order = orders(graph, self._structure, Importance.RECONSTRUCTION, self._samples)
        self._orders = by_answers(graph, self._structure, order, self._samples)
        self._units = units_of(self._structure, lanes)
        self._latency = Latency(graph, self._structure, self._orders, self._units, measure)
        self._refusals = tuple(f"{group.name}: {group.frozen}" for group in self._structure.groups if group.frozen)

    def within(self, budget: float) -> Pruned | TooSlow:
        """Remove channels until a run takes no longer than this.

        Args:
            budget: Seconds.
        """
        if not self._structure.prunable:
            return TooSlow("no channels can be removed", self._refusals)
        found = self._fast_enough(budget)
        if isinstance(found, TooSlow):
            return found
        counts, after = found
        channels = channels_of(self._orders, counts)
        repairs = find_repairs(self._graph, self._structure, channels, self._samples)
        tried = {_NOT_REPAIRED: NOTHING} | dict(repairs.found)
        judged = {name: self._contract.judge(apply(each, self._without(channels))) for name, each in tried.items()}
        # Of equals the last one: what was fitted is nearer to the original where a metric does not tell.
        best = max(reversed(judged), key=lambda name: judged[name].value)
        repair, judgement = tried[best], judged[best]
        before = math.fsum(self._measure(self._graph).values())
        gone = f"{len(channels)} channels of {sum(count > 0 for count in counts)} groups go"
        faster = f"so that {before * 1e3:.3f} ms become {after * 1e3:.3f}"
        reason = f"{gone}, {faster}; {self._contract.metric_name} {judgement} by {best}; {repairs.reason}"
        findings: dict[str, object] = {
            "seconds": {"before": before, "after": after},
            "metric": {
                "name": self._contract.metric_name,
                "original": judgement.original,
                "pruned": judgement.value,
                "pruned and not repaired": judged[_NOT_REPAIRED].value,
                **{f"by {name}": judged[name].value for name in repairs.found},
                "standard error of the difference": judgement.error,
                "samples held out": judgement.samples,
                "most it may drop": self._contract.max_drop,
            },
            "groups": [
                {"group": group.name, "channels": len(group.channels), "left": len(group.channels) - count}
                for group, count in zip(self._structure.prunable, counts, strict=True)
            ],
        }
        holds = judgement.drop + judgement.error <= self._contract.max_drop
        return Pruned(self._removed(counts), repair, reason, holds, self._refusals, findings)

    def _without(self, channels: Set[int]) -> Graph:
        return remove(self._graph.copy(), self._structure, channels)

    def _seconds(self, counts: Sequence[int]) -> float:
        return math.fsum(self._measure(self._without(channels_of(self._orders, counts))).values())

    def _fast_enough(self, budget: float) -> tuple[list[int], float] | TooSlow:
        """How many channels of each group go, and what a run takes then."""
        aim, fastest = _MARGIN * budget, math.inf
        for _ in range(_ATTEMPTS):
            counts = allocate(self._orders, self._units, self._latency, aim)
            if counts is None:
                pairs = zip(self._orders, self._units, strict=True)
                counts = [max(0, len(order.channels) - unit) for order, unit in pairs]
                aim = 0.0
            seconds = self._seconds(counts)
            if seconds <= budget:
                return counts, seconds
            fastest = min(fastest, seconds)
            if aim == 0.0:
                break
            aim *= _MARGIN * budget / seconds
        return TooSlow(
            f"with as few channels as were tried a run takes {fastest * 1e3:.3f} ms, and {budget * 1e3:.3f} are needed",
            self._refusals,
        )

    def _removed(self, counts: Sequence[int]) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
        found = []
        for group, order, count in zip(self._structure.prunable, self._orders, counts, strict=True):
            if count:
                name, axis = group.places[0]
                gone = set(order.channels[:count])
                labels = self._structure.axes[name][axis].tolist()
                found.append((name, axis, tuple(index for index, label in enumerate(labels) if label in gone)))
        return tuple(found)
