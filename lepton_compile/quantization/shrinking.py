"""A library that fits budgets for size and memory: weights in 16, 8 or 4 bits, in as few layers as that takes.

What a layer gives up is its weights' precision alone: it goes on computing in float32, or in int8 where that is chosen
for it besides. No layer takes 8 bits where 16 in all of them are few enough, nor 4 where 8 are. Layers go in the order
of how many bytes that saves for what it costs of the metric, or for the square of that where the metric does not bear
the other order; what turns out not to be needed in the end goes back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lepton_compile.model import Graph
from lepton_compile.quantization.choice import Assignment, Step, taken_by
from lepton_compile.quantization.recipe import WEIGHT_BITS
from lepton_compile.quantization.weight_only import candidates

_FLOAT_BITS = 32
# Bits that weights may take, the fewest that are tried at first and those that are tried after that.
_TOGETHER = (16,), (16, 8), (16, 8, 4)
# Costs of layers add up as they are where a metric sums losses, and as squares where it is the size of a sum of errors
# that do not depend on each other.
_ADDING_UP = 1, 2
# How many libraries are built to find as few steps as it takes.
_MEASUREMENTS = 5


@dataclass(frozen=True)
class Shrunk:
    """What came of it.

    Attributes:
        assignment: The layers whose weights take fewer bits, and in how many; None where no choice fits and holds.
        reason: Why there is none, in one line; "" where there is one.
    """

    assignment: Assignment | None
    reason: str = ""


def shrink(
    graph: Graph,
    most: int,
    over: Callable[[Assignment], int],
    excess: Callable[[Assignment], float],
    cost: Callable[[str, str], float],
) -> Shrunk:
    """Choose layers whose weights take fewer bits.

    Args:
        graph: The graph.
        most: By how many bytes more than the budget may be taken.
        over: By how many more are, with a choice.
        excess: By how much the metric drops more than the contract allows with it; at most 0 where it holds.
        cost: What a layer in a precision costs of the metric, on samples that do not judge.
    """
    if over({}) <= most:
        return Shrunk({})
    fitting, least = False, 0
    steps: list[Step] = []
    prices: dict[tuple[str, str], float] = {}
    for bits in _TOGETHER:
        before, steps = steps, _steps(graph, bits)
        least = over(taken_by(steps))
        if least > most or steps == before:
            continue
        fitting = True
        for step in steps:
            key = step.layer, step.precision
            prices[key] = prices.get(key) or max(cost(*key), 1e-12)
        for exponent in _ADDING_UP:
            order = _by_value(steps, {step: price**exponent for step, price in prices.items()})
            chosen = _needed(_shortest(order, least, most, over), prices, most, over)
            if excess(chosen) <= 0:
                return Shrunk(chosen)
    if fitting:
        return Shrunk(None, "what makes it small enough costs too much of the metric")
    return Shrunk(
        None, f"with all weights in as few bits as there are kernels for it is {least - most} bytes too large"
    )


def _steps(graph: Graph, allowed: Sequence[int]) -> list[Step]:
    """All that lead to as many bits as are allowed: the largest weights first, more bits before fewer."""
    found = []
    known = sorted(candidates(graph), key=lambda each: (-each.numbers, each.node))
    for precision, bits in WEIGHT_BITS.items():
        for candidate in known if bits in allowed else ():
            if bits in candidate.bits:
                before = min((each for each in candidate.bits if each > bits), default=_FLOAT_BITS)
                found.append(Step(candidate.node, precision, candidate.numbers * (before - bits) / 8))
    return found


def _by_value(steps: Sequence[Step], prices: Mapping[tuple[str, str], float]) -> list[Step]:
    """By bytes saved for what is lost; of one layer, more bits before fewer."""
    rates: dict[str, float] = {}
    ranked = []
    for place, step in enumerate(steps):
        rate = step.value / prices[step.layer, step.precision]
        rates[step.layer] = min(rate, rates.get(step.layer, rate))
        ranked.append((-rates[step.layer], place, step))
    return [step for _, _, step in sorted(ranked, key=lambda item: item[:2])]


def _needed(
    steps: Sequence[Step],
    prices: Mapping[tuple[str, str], float],
    most: int,
    over: Callable[[Assignment], int],
) -> Assignment:
    """What is left of steps that fit when those that fit without go back, the one that costs most first."""
    left: float = most - over(taken_by(steps))
    kept = list(steps)
    for step in sorted(steps, key=lambda step: -prices[step.layer, step.precision]):
        last = next(each for each in reversed(kept) if each.layer == step.layer)
        if step is last and step.value <= left:
            kept.remove(step)
            left -= step.value
    taken = taken_by(kept)
    return taken if over(taken) <= most else taken_by(steps)


def _shortest(steps: Sequence[Step], least: int, most: int, over: Callable[[Assignment], int]) -> Sequence[Step]:
    """As few steps as it takes to fit; `least` is what all of them leave.

    What fewer leave follows from what the others save, but for what kernels take besides, of which measuring tells.
    """
    saved = list(itertools.accumulate((step.value for step in steps), initial=0.0))
    whole = least + saved[-1]
    fits, too_few = len(steps), 0
    for _ in range(_MEASUREMENTS):
        expected = next((count for count, value in enumerate(saved) if whole - value <= most), len(steps))
        count = max(expected, too_few + 1)
        if count >= fits:
            break
        taken = over(taken_by(steps[:count]))
        whole = taken + saved[count]
        if taken <= most:
            fits = count
        else:
            too_few = count
    return steps[:fits]
