"""How many channels of each group go."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.widths import Goal, allocate


class Linear:
    """Runs that take so much longer for each channel of each group."""

    def __init__(self, sizes: Sequence[int], each: Sequence[float]) -> None:
        self._sizes = sizes
        self._each = each

    def amount(self, removed: Sequence[int]) -> float:
        return math.fsum(
            (size - gone) * each for size, gone, each in zip(self._sizes, removed, self._each, strict=True)
        )

    def saved(self, removed: Sequence[int], number: int, more: int) -> float:
        return more * self._each[number]


def order(size: int, cost: float) -> Order:
    return Order(tuple(range(size)), tuple(cost * (place + 1) for place in range(size)))


def test_what_saves_most_for_what_it_costs_goes_first() -> None:
    latency = Linear([8, 8], [1.0, 1.0])
    assert allocate([order(8, 1.0), order(8, 3.0)], [2, 2], [Goal(latency, 10.0)]) == [4, 2]


def test_what_saves_more_than_is_needed_lets_others_stay() -> None:
    """The last channels that go save ten times as much as those before, which come back for it."""
    latency = Linear([8, 4], [1.0, 10.0])
    assert latency.amount([0, 0]) == 48
    assert allocate([order(8, 0.1), order(4, 20.0)], [1, 1], [Goal(latency, 40.5)]) == [0, 1]


def test_of_each_group_something_stays() -> None:
    latency = Linear([8, 4], [1.0, 1.0])
    assert allocate([order(8, 1.0), order(4, 1.0)], [2, 4], [Goal(latency, 6.0)]) == [6, 0]
    assert allocate([order(8, 1.0), order(4, 1.0)], [2, 4], [Goal(latency, 5.0)]) is None
