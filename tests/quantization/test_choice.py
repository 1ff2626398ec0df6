from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.quantization.choice import choose, sparing

NAMES = "abcdefgh"
PRECISIONS = "bytes", "halves"


def never():
    raise AssertionError


def total(table, taken):
    return sum(table[name][precision] for name, precision in taken.items())


def only(**numbers):
    return {name: {"bytes": number} for name, number in numbers.items()}


def table(numbers):
    return {name: dict(zip(PRECISIONS, pair, strict=True)) for name, pair in zip(NAMES, numbers, strict=False)}


def test_the_best_of_each_is_taken_where_the_contract_holds_and_costs_are_not_asked_for():
    values = {"a": {"bytes": 1.0, "halves": 2.0}, "b": {"bytes": -1.0, "halves": 0.5}, "c": {"bytes": 0.0}}
    choice = choose(values, never, lambda taken: -1.0)
    assert choice.taken == {"a": "halves", "b": "halves"} and not choice.alone


pairs = st.tuples(st.integers(1, 20).map(float), st.integers(1, 20).map(float))
prices = st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(float))


@given(st.lists(pairs, min_size=8, max_size=8), st.lists(prices, min_size=8, max_size=8), st.integers(0, 60))
def test_the_contract_holds_whatever_the_costs(values, costs, capacity):
    value, cost = table(values), table(costs)

    def excess(taken):
        return total(cost, taken) - capacity

    choice = choose(value, lambda: cost, excess)
    assert choice.excess == excess(choice.taken) <= 0 or not choice.taken
    assert {name for name in NAMES if min(cost[name].values()) == 0} <= set(choice.taken)


@given(st.lists(pairs, min_size=4, max_size=4), st.lists(prices, min_size=4, max_size=4), st.integers(1, 60))
def test_the_choice_is_at_most_one_layer_short_of_the_best(values, costs, capacity):
    value, cost = table(values), table(costs)

    def excess(taken):
        return total(cost, taken) - capacity

    choice = choose(value, lambda: cost, excess)
    every = product([None, *PRECISIONS], repeat=len(value))
    choices = [{name: each for name, each in zip(value, picked, strict=True) if each} for picked in every]
    best = max(total(value, taken) for taken in choices if excess(taken) <= 0)
    # The relaxed optimum is beyond the best, and the chain is less than one step below it.
    assert total(value, choice.taken) >= best - max(max(each.values()) for each in value.values())


def test_value_for_money_decides_and_what_still_fits_is_added():
    value, cost = only(good=10.0, bad=3.0, small=1.0), only(good=5.0, bad=9.0, small=2.0)
    choice = choose(value, lambda: cost, lambda taken: total(cost, taken) - 7.0)
    assert set(choice.taken) == {"good", "small"} and choice.alone == cost


def test_a_layer_that_is_too_damaging_in_one_precision_takes_another():
    value = {"a": {"bytes": 10.0, "halves": 6.0}, "b": {"bytes": 10.0, "halves": 6.0}}
    cost = {"a": {"bytes": 9.0, "halves": 1.0}, "b": {"bytes": 3.0, "halves": 1.0}}
    choice = choose(value, lambda: cost, lambda taken: total(cost, taken) - 5.0)
    assert choice.taken == {"a": "halves", "b": "bytes"}


def test_nothing_is_taken_where_nothing_holds():
    assert not choose(only(a=1.0), lambda: only(a=1.0), lambda taken: 1.0 if taken else 0.0).taken


def test_a_repair_never_goes_back_to_what_saves_less():
    value = {"c": {"bytes": 30.0}, "a": {"halves": 1.0, "bytes": 4.0}}
    cost = {"c": {"bytes": 10.0}, "a": {"halves": 0.4, "bytes": 2.0}}
    assert choose(value, lambda: cost, lambda taken: total(cost, taken) - 5.0).taken == {"a": "bytes"}


def test_what_saves_enough_is_not_more_than_that() -> None:
    values = {"a": {"bytes": 3.0}, "b": {"bytes": 2.0, "half": 1.5}, "c": {"bytes": -1.0}, "d": {"bytes": 4.0}}
    costs = {"a": {"bytes": 1.0}, "b": {"bytes": 4.0, "half": 0.5}, "c": {"bytes": 0.0}, "d": {"bytes": 8.0}}
    assert sparing(values, costs, 4.0) == {"a": "bytes", "b": "half"}
    assert sparing(values, costs, 4.6) == {"a": "bytes", "b": "half", "d": "bytes"}
    assert sparing(values, costs, 100.0) == {"a": "bytes", "b": "bytes", "d": "bytes"}
