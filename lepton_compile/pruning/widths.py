"""How many channels of each group go: those that save most for what they cost, until what is left fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.uses import Use


def units_of(structure: Structure, lanes: int) -> list[int]:
    """How many channels of each group go at a time, so that widths are what kernels like.

    Args:
        structure: What `find_groups` says of a graph.
        lanes: How many float32 numbers a vector register holds.
    """
    found = []
    for group in structure.prunable:
        # Of heads, a channel is as wide as a head; of gates, which lie behind each other, each has all units.
        name, axis = group.places[0]
        labels = structure.axes[name][axis]
        members = labels[np.isin(labels, group.channels)]
        runs = 1 + int(np.count_nonzero(members[1:] != members[:-1]))
        unit: int = max(1, lanes // (len(members) // runs))
        if len(group.channels) <= unit:
            # However many are left, they take a vector; what reads them takes less for each.
            unit = 1
        while unit > 1 and len(group.channels) < 3 * unit:
            unit //= 2
        found.append(unit)
    return found


@dataclass(frozen=True)
class Goal:
    """What a graph may take of a resource.

    Attributes:
        use: What it takes by how many channels are gone.
        most: The most that it may.
    """

    use: Use
    most: float


def allocate(orders: Sequence[Order], units: Sequence[int], goals: Sequence[Goal]) -> list[int] | None:
    """How many channels of each group go; None where that never is enough.

    Those that cost least for what they save go first, in shares of what has to be saved yet of each resource. The last
    of them may save more than is needed, so that others that went before can stay: those that cost most come back, as
    far as the goals allow.

    Args:
        orders: In which order the channels of each group go, and what they cost.
        units: How many go at a time.
        goals: What has to be reached.
    """
    removed = [0] * len(orders)
    amounts = [goal.use.amount(removed) for goal in goals]
    gone: list[tuple[int, int]] = []
    while missed := [place for place, goal in enumerate(goals) if amounts[place] > goal.most]:
        best: tuple[float, int, int] | None = None
        for number, (order, unit) in enumerate(zip(orders, units, strict=True)):
            left = len(order.channels) - removed[number]
            first = left % unit or unit
            for more in (first, first + unit):  # the first alone may save no vector
                if left - more < unit:
                    break
                saved = math.fsum(
                    goals[place].use.saved(removed, number, more) / (amounts[place] - goals[place].most)
                    for place in missed
                )
                rate = _cost(order, removed[number], more) / saved if saved > 0 else math.inf
                if saved > 0 and (best is None or rate < best[0]):
                    best = rate, number, more
        if best is None:
            return None
        _, number, more = best
        amounts = [amount - goal.use.saved(removed, number, more) for amount, goal in zip(amounts, goals, strict=True)]
        removed[number] += more
        gone.append((number, more))
    while back := [
        (_cost(orders[number], removed[number] - more, more), number, more)
        for number, more in dict(gone).items()  # of each group the last that went
        if all(goal.use.amount(_with(removed, number, -more)) <= goal.most for goal in goals)
    ]:
        _, number, more = max(back)
        removed = _with(removed, number, -more)
        del gone[max(place for place, each in enumerate(gone) if each == (number, more))]
    return removed


def _cost(order: Order, gone: int, more: int) -> float:
    """What so many more channels cost once some are gone."""
    return math.fsum(order.costs[gone : gone + more])


def _with(removed: Sequence[int], number: int, more: int) -> list[int]:
    """The counts when so many more of one group are gone."""
    return [*removed[:number], removed[number] + more, *removed[number + 1 :]]
