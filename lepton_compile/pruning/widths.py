"""How many channels of each group go: those that save most time for what they cost, until a run is fast enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.latency import Latency


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
        while unit > 1 and len(group.channels) < 3 * unit:
            unit //= 2
        found.append(unit)
    return found


def allocate(orders: Sequence[Order], units: Sequence[int], latency: Latency, budget: float) -> list[int] | None:
    """How many channels of each group go; None where the run does not become fast enough.

    Channels that save most for what they cost go first. The last of them may save more than is needed, so that others
    that went before can stay: those that cost most come back, as far as the budget allows.

    Args:
        orders: In which order the channels of each group go, and what they cost.
        units: How many go at a time.
        latency: What runs take.
        budget: Seconds that a run may take.
    """
    removed = [0] * len(orders)
    seconds = latency.seconds(removed)
    gone: list[tuple[int, int]] = []
    while seconds > budget:
        best: tuple[float, int, int, float] | None = None
        for number, (order, unit) in enumerate(zip(orders, units, strict=True)):
            left = len(order.channels) - removed[number]
            more = left % unit or unit
            if left - more < unit:
                continue
            saved = latency.saved(removed, number, more)
            rate = _cost(order, removed[number], more) / saved if saved > 0 else math.inf
            if saved > 0 and (best is None or rate < best[0]):
                best = rate, number, more, saved
        if best is None:
            return None
        _, number, more, saved = best
        removed[number] += more
        gone.append((number, more))
        seconds -= saved
    while True:
        # Of each group the last that went.
        last = dict(gone)
        back = [
            (_cost(orders[number], removed[number] - more, more), number, more)
            for number, more in last.items()
            if latency.seconds([each - more * (place == number) for place, each in enumerate(removed)]) <= budget
        ]
        if not back:
            return removed
        _, number, more = max(back)
        removed[number] -= more
        gone.reverse()
        gone.remove((number, more))
        gone.reverse()


def _cost(order: Order, gone: int, more: int) -> float:
    """What so many more channels cost once some are gone."""
    return math.fsum(order.costs[gone : gone + more])
