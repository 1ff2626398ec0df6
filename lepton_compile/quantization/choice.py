"""Mixed precision by value for money: which layers are worth computing in integers under a contract.

Layers are chosen as for a knapsack: what each one saves is its value, what it costs of the metric its weight, and the
contract the capacity. Costs add up only roughly, so the capacity is found by trying: layers in the order of value by
weight (the optimum of the relaxed problem; Dantzig, "Discrete-variable extremum problems", 1957) form a chain of
choices, each larger than the one before, and the largest that holds the contract is found by bisection. What is left
out is then tried once more, the most valuable first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# How many layers of those left out are tried at the end.
_REPAIRS = 8

Judge = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        taken: The layers.
        excess: By how much the drop of the metric exceeds the contract with them; not more than 0.
        alone: What quantizing each layer alone costs of the metric; empty where all could be taken.
    """

    taken: frozenset[str]
    excess: float
    alone: Mapping[str, float]


def choose(values: Mapping[str, float], alone: Callable[[], Mapping[str, float]], excess: Judge) -> Choice:
    """Choose layers.

    Args:
        values: What each layer saves; those that save nothing are left out.
        alone: What each layer costs alone, on samples that do not judge; asked for where not all can be taken.
        excess: By how much the metric drops more than the contract allows, with some layers; at most 0 where it holds.
    """
    every = frozenset(name for name, value in values.items() if value > 0)
    over = excess(every) if every else 0.0
    if over <= 0:
        return Choice(every, over, {})
    costs = alone()
    order = sorted(every, key=lambda name: (-values[name] / max(costs[name], 1e-12), name))
    fits, too_many = 0, len(order)
    best = 0.0
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        over = excess(frozenset(order[:middle]))
        if over <= 0:
            fits, best = middle, over
        else:
            too_many = middle
    taken = frozenset(order[:fits])
    # The first of those left out is known to be too much.
    for name in sorted(order[fits + 1 :], key=lambda each: (-values[each], each))[:_REPAIRS]:
        over = excess(taken | {name})
        if over <= 0:
            taken, best = taken | {name}, over
    return Choice(taken, best, costs)
