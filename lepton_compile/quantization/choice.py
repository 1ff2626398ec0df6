"""Mixed precision by value for money: which precision each layer is worth computing in under a contract.

This is a knapsack of multiple choice: what a precision saves a layer is its value, what it costs of the metric its
weight, and the contract the capacity. Of each layer's precisions those count that no mixture of two others beats (the
convex hull; Sinha and Zoltners, "The multiple-choice knapsack problem", 1979). The steps from one to the next, in the
order of value by weight, are the optimum of the relaxed problem; they form a chain of choices, each with one step more
than the one before. Costs add up only roughly, so the capacity is found by trying: the largest choice that holds the
contract, by bisection. What is left out is then tried once more, the most valuable first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# How many steps of those left out are tried at the end.
_REPAIRS = 8

Assignment = Mapping[str, str]
"""From layers to the precisions that they compute in; the others stay as they are."""
Table = Mapping[str, Mapping[str, float]]
"""A number for each precision that a layer may compute in."""


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        taken: The precision of each layer that changes.
        excess: By how much the drop of the metric exceeds the contract with them; not more than 0.
        alone: What each precision of each layer costs of the metric alone; empty where the best could be taken.
    """

    taken: Assignment
    excess: float
    alone: Table


@dataclass(frozen=True)
class Step:
    """A layer goes on to another precision.

    Attributes:
        layer: The layer.
        precision: The precision.
        value: What it saves beyond the one before.
        cost: What it costs beyond the one before, where that is known.
    """

    layer: str
    precision: str
    value: float
    cost: float = 0.0


def choose(values: Table, alone: Callable[[], Table], excess: Callable[[Assignment], float]) -> Choice:
    """Choose a precision for each layer.

    Args:
        values: What each precision saves each layer; where it saves nothing, it is left out.
        alone: What each costs alone, on samples that do not judge; asked for where not all can have the best.
        excess: By how much the metric drops more than the contract allows, with some choice; at most 0 where it holds.
    """
    saving, best = _saving(values), fastest(values)
    over = excess(best) if best else 0.0
    if over <= 0:
        return Choice(best, over, {})
    costs = alone()
    chain = _chain(saving, costs)
    fits, too_many = 0, len(chain) + 1
    least = 0.0
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        over = excess(taken_by(chain[:middle]))
        if over <= 0:
            fits, least = middle, over
        else:
            too_many = middle
    taken = taken_by(chain[:fits])
    # The first of those left out is known to be too much.
    for step in sorted(chain[fits + 1 :], key=lambda each: (-each.value, each.layer))[:_REPAIRS]:
        reached = taken.get(step.layer)
        if reached is not None and values[step.layer][reached] >= values[step.layer][step.precision]:
            continue
        tried = {**taken, step.layer: step.precision}
        over = excess(tried)
        if over <= 0:
            taken, least = tried, over
    return Choice(taken, least, costs)


def sparing(values: Table, costs: Table, needed: float) -> Assignment:
    """The steps that save as much as is needed, those of most value for what they cost first.

    Args:
        values: What each precision saves each layer.
        costs: What each costs alone.
        needed: What has to be saved.
    """
    chain = _chain(_saving(values), costs)
    saved = list(itertools.accumulate(step.value for step in chain))
    count = next((number for number, value in enumerate(saved, 1) if value >= needed), len(chain))
    return taken_by(chain[:count])


def fastest(values: Table) -> dict[str, str]:
    """What saves each layer most; none where nothing saves."""
    return {layer: max(each, key=lambda p: (each[p], p)) for layer, each in _saving(values).items() if each}


def _chain(saving: Table, costs: Table) -> list[Step]:
    """All steps, in the order of value for what they cost."""
    chain = [step for layer, each in saving.items() for step in _hull(layer, each, costs[layer])]
    return sorted(chain, key=lambda step: (-step.value / max(step.cost, 1e-12), step.layer))


def _saving(values: Table) -> dict[str, dict[str, float]]:
    return {layer: {p: value for p, value in each.items() if value > 0} for layer, each in values.items()}


def _hull(layer: str, values: Mapping[str, float], costs: Mapping[str, float]) -> list[Step]:
    """The steps of one layer, from what costs least on: each saves less for what it costs than the one before."""
    steps: list[Step] = []
    reached: list[tuple[float, float]] = [(0.0, 0.0)]
    for precision in sorted(values, key=lambda p: (costs[p], -values[p], p)):
        value, cost = values[precision], max(costs[precision], 0.0)
        if value <= reached[-1][0]:
            continue
        while steps and _rate(reached[-1], (value, cost)) >= _rate(reached[-2], reached[-1]):
            steps.pop()
            reached.pop()
        steps.append(Step(layer, precision, value - reached[-1][0], cost - reached[-1][1]))
        reached.append((value, cost))
    return steps


def _rate(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[0] - one[0]) / max(other[1] - one[1], 1e-12)


def taken_by(steps: Sequence[Step]) -> dict[str, str]:
    """The last step of each layer decides."""
    return {step.layer: step.precision for step in steps}
