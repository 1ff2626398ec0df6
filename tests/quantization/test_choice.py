from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.quantization.choice import choose

NAMES = "abcdefgh"


def test_all_that_save_are_taken_where_the_contract_holds_and_costs_are_not_asked_for():
    def never():
        raise AssertionError

    choice = choose({"a": 1.0, "b": -1.0, "c": 0.0}, never, lambda taken: -1.0)
    assert choice.taken == {"a"} and not choice.alone


@given(
    st.lists(st.integers(1, 20), min_size=8, max_size=8),
    st.lists(st.integers(0, 20), min_size=8, max_size=8),
    st.integers(0, 60),
)
def test_the_contract_holds_whatever_the_costs(values, costs, capacity):
    value, cost = dict(zip(NAMES, map(float, values), strict=True)), dict(zip(NAMES, map(float, costs), strict=True))

    def excess(taken):
        return sum(cost[name] for name in taken) - capacity

    choice = choose(value, lambda: cost, excess)
    assert choice.excess == excess(choice.taken) <= 0 or not choice.taken
    cheap = frozenset(name for name in NAMES if cost[name] == 0)
    assert cheap <= choice.taken


def test_value_for_money_decides_and_what_still_fits_is_added():
    value = {"good": 10.0, "bad": 3.0, "small": 1.0}
    cost = {"good": 5.0, "bad": 9.0, "small": 2.0}
    choice = choose(value, lambda: cost, lambda taken: sum(cost[name] for name in taken) - 7.0)
    assert choice.taken == {"good", "small"} and choice.alone == cost


def test_nothing_is_taken_where_nothing_holds():
    assert choose({"a": 1.0}, lambda: {"a": 1.0}, lambda taken: 1.0 if taken else 0.0).taken == frozenset()
