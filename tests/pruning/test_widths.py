"""How many channels of each group go."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowering.conftest import Model

from lepton_compile.model import import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.widths import Goal, allocate, units_of


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


class Vectors(Linear):
    """Runs that take so much longer for each vector of four channels of each group."""

    def amount(self, removed: Sequence[int]) -> float:
        whole = [-(-(size - gone) // 4) * 4 for size, gone in zip(self._sizes, removed, strict=True)]
        return super().amount([size - left for size, left in zip(self._sizes, whole, strict=True)])

    def saved(self, removed: Sequence[int], number: int, more: int) -> float:
        after = [gone + more * (place == number) for place, gone in enumerate(removed)]
        return self.amount(removed) - self.amount(after)


def test_what_saves_nothing_alone_goes_with_the_next() -> None:
    assert allocate([order(8, 1.0), order(8, 2.0)], [2, 2], [Goal(Vectors([8, 8], [1.0, 1.0]), 12.0)]) == [4, 0]


def test_what_fills_no_vector_goes_one_by_one() -> None:
    model = Model()
    first = model.node("Conv", model.input(1, 3, 6, 6), model.weight(6, 3, 3, 3))
    second = model.node("Conv", model.node("Relu", first), model.weight(20, 6, 3, 3))
    model.output(model.node("Conv", model.node("Relu", second), model.weight(4, 20, 1, 1)))
    assert units_of(find_groups(import_model(model.proto())), 16) == [1, 4]


def test_units_of_heads_and_of_gates() -> None:
    model = Model()
    x = model.input(12, 1, 64)
    states, _ = model.node("GRU", x, model.weight(1, 192, 64), model.weight(1, 192, 64), outputs=2, hidden_size=64)
    rows = model.node("Reshape", states, model.constant([12, 64], "int64"))
    heads = []
    for _ in range(3):
        parts = model.node(
            "Reshape", model.node("MatMul", rows, model.weight(64, 64)), model.constant([12, 8, 8], "int64")
        )
        heads.append(model.node("Transpose", parts, perm=[1, 0, 2]))
    scores = model.node("Softmax", model.node("MatMul", heads[0], model.node("Transpose", heads[1], perm=[0, 2, 1])))
    mixed = model.node("Transpose", model.node("MatMul", scores, heads[2]), perm=[1, 0, 2])
    joined = model.node("Reshape", mixed, model.constant([12, 64], "int64"))
    model.output(model.node("MatMul", joined, model.weight(64, 5)))
    structure = find_groups(import_model(model.proto()))
    units = dict(zip((len(group.channels) for group in structure.prunable), units_of(structure, 16), strict=True))
    assert units == {64: 16, 8: 2}
