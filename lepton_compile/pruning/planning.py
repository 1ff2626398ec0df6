"""From a budget for latency to the channels that go, and to what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lepton_compile.evaluation.contract import Contract
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure, find_groups
from lepton_compile.pruning.importance import Importance, Order, orders
from lepton_compile.pruning.latency import Latency, Steps, channels_of
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import NOTHING, Repair, apply, find_repair
from lepton_compile.pruning.widths import allocate, units_of

# How many samples the importance of channels and the weights that make up for them are found with, at most.
_SAMPLES = 512
# How often what is measured may correct what was expected.
_ATTEMPTS = 4
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


def plan(
    graph: Graph, budget: float, lanes: int, contract: Contract, measure: Callable[[Graph], Steps]
) -> Pruned | TooSlow:
    """Plan the pruning of a graph.

    Args:
        graph: The graph, which is slower than the budget.
        budget: Seconds that a run may take.
        lanes: How many float32 numbers a vector register holds.
        contract: Its samples tell what channels matter, and it judges.
        measure: Seconds of the steps of a graph.
    """
    contract.observe(graph, {})
    samples = [each.sample.inputs for each in contract.samples(_SAMPLES)]
    structure = find_groups(graph)
    refusals = tuple(f"{group.name}: {group.frozen}" for group in structure.groups if group.frozen)
    if not structure.prunable:
        return TooSlow("no channels can be removed", refusals)
    order = orders(graph, structure, Importance.RECONSTRUCTION, samples)
    units = units_of(structure, lanes)
    latency = Latency(graph, structure, order, units, measure)
    before = math.fsum(measure(graph).values())
    found = _fast_enough(graph, structure, order, units, latency, budget, measure)
    if isinstance(found, TooSlow):
        return TooSlow(found.reason, refusals)
    counts, after = found
    channels = channels_of(order, counts)
    repair = find_repair(graph, remove(graph.copy(), structure, channels), structure, channels, samples)
    ways = {"repaired": repair, "not repaired": NOTHING}
    judged = {name: contract.judge(apply(way, remove(graph.copy(), structure, channels))) for name, way in ways.items()}
    way = max(judged, key=lambda name: judged[name].value)
    judgement = judged[way]
    gone = sum(count > 0 for count in counts)
    reason = (
        f"{len(channels)} channels of {gone} groups go, so that {before * 1e3:.3f} ms become {after * 1e3:.3f}, of "
        f"{budget * 1e3:.3f} that it may take; {contract.metric_name} {judgement}"
    )
    findings: dict[str, object] = {
        "seconds": {"before": before, "after": after, "budget": budget},
        "metric": {
            "name": contract.metric_name,
            "original": judgement.original,
            "pruned": judgement.value,
            "not repaired": judged["not repaired"].value,
            "standard error of the difference": judgement.error,
            "samples held out": judgement.samples,
            "most it may drop": contract.max_drop,
        },
        "groups": [
            {"group": group.name, "channels": len(group.channels), "left": len(group.channels) - count}
            for group, count in zip(structure.prunable, counts, strict=True)
        ],
    }
    holds = judgement.drop + judgement.error <= contract.max_drop
    removed = _removed(structure, order, counts)
    return Pruned(removed, ways[way], reason, holds, refusals, findings)


def _fast_enough(
    graph: Graph,
    structure: Structure,
    order: list[Order],
    units: list[int],
    latency: Latency,
    budget: float,
    measure: Callable[[Graph], Steps],
) -> tuple[list[int], float] | TooSlow:
    """How many channels of each group go, and what a run takes then."""
    aim, fastest = _MARGIN * budget, math.inf
    for _ in range(_ATTEMPTS):
        counts = allocate(order, units, latency, aim)
        if counts is None:
            break
        seconds = math.fsum(measure(remove(graph.copy(), structure, channels_of(order, counts))).values())
        if seconds <= budget:
            return counts, seconds
        fastest = min(fastest, seconds)
        aim *= _MARGIN * budget / seconds
    if counts is None:
        least = [max(0, len(each.channels) - unit) for each, unit in zip(order, units, strict=True)]
        pruned = remove(graph.copy(), structure, channels_of(order, least))
        fastest = min(fastest, math.fsum(measure(pruned).values()))
    return TooSlow(
        f"with as few channels as were tried a run takes {fastest * 1e3:.3f} ms, and it may take {budget * 1e3:.3f}"
    )


def _removed(
    structure: Structure, order: list[Order], counts: list[int]
) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    found = []
    for group, each, count in zip(structure.prunable, order, counts, strict=True):
        if count:
            name, axis = group.places[0]
            gone = set(each.channels[:count])
            labels = structure.axes[name][axis].tolist()
            found.append((name, axis, tuple(index for index, label in enumerate(labels) if label in gone)))
    return tuple(found)
