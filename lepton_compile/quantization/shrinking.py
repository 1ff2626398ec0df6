"""A library that fits a budget for its size: weights in 16, 8 or 4 bits, in as few layers as that takes.

What a layer gives up is its weights' precision alone: it goes on computing in float32, or in int8 where that is chosen
for it besides. The largest weights go first, all to 16 bits before any to 8, and all to 8 before any to 4. Where the
metric does not bear that, they go by how many bytes they save for what they cost of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lepton_compile.model import Graph
from lepton_compile.quantization.choice import Assignment, Step, taken_by
from lepton_compile.quantization.recipe import INT16_WEIGHTS, WEIGHT_BITS
from lepton_compile.quantization.weight_only import candidates

_FLOAT_BITS = 32


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
    budget: int,
    size: Callable[[Assignment], int],
    excess: Callable[[Assignment], float],
    cost: Callable[[Assignment], float],
) -> Shrunk:
    """Choose layers whose weights take fewer bits.

    Args:
        graph: The graph.
        budget: What the library may take, in bytes.
        size: What a library takes with a choice.
        excess: By how much the metric drops more than the contract allows with it; at most 0 where it holds.
        cost: What a choice costs of the metric, on samples that do not judge.
    """
    if size({}) <= budget:
        return Shrunk({})
    steps = _steps(graph)
    least = size(taken_by(steps))
    if least > budget:
        return Shrunk(None, f"with all weights in as few bits as there are kernels for it takes {least} bytes")
    order: Sequence[Step] = steps
    for by_cost in (False, True):
        if by_cost:
            prices = {(step.layer, step.precision): _price(step, cost) for step in steps}
            order = _by_value(steps, prices)
        fitting = _shortest(order, least, budget, size)
        if excess(fitting) <= 0:
            return Shrunk(fitting)
    return Shrunk(None, "what makes it small enough costs too much of the metric")


def _steps(graph: Graph) -> list[Step]:
    """All there are: the largest weights first, 16 bits before 8 before 4."""
    found = []
    known = sorted(candidates(graph), key=lambda each: (-each.numbers, each.node))
    for precision, bits in WEIGHT_BITS.items():
        for candidate in known:
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


def _price(step: Step, cost: Callable[[Assignment], float]) -> float:
    """What a step costs; next to nothing in 16 bits, which is not asked for."""
    asked = step.precision != INT16_WEIGHTS
    return max(cost({step.layer: step.precision}) if asked else 0.0, 1e-12)


def _shortest(steps: Sequence[Step], least: int, budget: int, size: Callable[[Assignment], int]) -> Assignment:
    """As many steps as it takes to fit: as should do, by what all of them leave, and more while they do not."""
    left = float(least) + sum(step.value for step in steps)
    count = 0
    while count < len(steps) and left > budget:
        left -= steps[count].value
        count += 1
    while count < len(steps) and size(taken_by(steps[:count])) > budget:
        count = min(len(steps), count + max(1, len(steps) // 16))
    return taken_by(steps[:count])
