"""A library that fits a budget for its size: weights in 8 bits, or 4, in as few layers as that takes.

What a layer gives up is its weights' precision alone: it goes on computing in float32, or in int8 where that is chosen
for it besides. The largest weights go first, all to 8 bits before any to 4. Where the metric does not bear that, they
go by how many bytes they save for what they cost of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lepton_compile.model import Graph
from lepton_compile.quantization.choice import Assignment
from lepton_compile.quantization.recipe import WEIGHT_BITS
from lepton_compile.quantization.weight_only import candidates

_FLOAT_BITS = 32


@dataclass(frozen=True)
class Shrunk:
    """What came of it.

    Attributes:
        assignment: The layers whose weights take fewer bits, and in how many; None where no choice fits and holds.
        size_bytes: What the library takes with them, or with the smallest choice there is.
        reason: Why there is none, in one line; "" where there is one.
    """

    assignment: Assignment | None
    size_bytes: int
    reason: str = ""


@dataclass(frozen=True)
class _Step:
    """The weights of a layer go on to fewer bits."""

    layer: str
    precision: str
    saved_bytes: float


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
    whole = size({})
    if whole <= budget:
        return Shrunk({}, whole)
    steps = _steps(graph)
    every = _taken(steps)
    least = size(every)
    if least > budget:
        return Shrunk(None, least, f"with all weights in as few bits as there are kernels for it takes {least} bytes")
    order: Sequence[_Step] = steps
    for by_cost in (False, True):
        if by_cost:
            prices = {(step.layer, step.precision): max(cost({step.layer: step.precision}), 1e-12) for step in steps}
            order = _by_value(steps, prices)
        fitting, taken_bytes = _fitting(order, least, budget, size)
        if excess(fitting) <= 0:
            return Shrunk(fitting, taken_bytes)
    return Shrunk(None, least, "what makes it small enough costs too much of the metric")


def _steps(graph: Graph) -> list[_Step]:
    """All there are: the largest weights first, 8 bits before 4."""
    found = []
    known = sorted(candidates(graph), key=lambda each: (-each.numbers, each.node))
    for precision, bits in WEIGHT_BITS.items():
        for candidate in known:
            if bits in candidate.bits:
                before = min((each for each in candidate.bits if each > bits), default=_FLOAT_BITS)
                found.append(_Step(candidate.node, precision, candidate.numbers * (before - bits) / 8))
    return found


def _by_value(steps: Sequence[_Step], prices: Mapping[tuple[str, str], float]) -> list[_Step]:
    """By bytes saved for what is lost; of one layer, 8 bits before 4."""
    rates: dict[str, float] = {}
    ranked = []
    for place, step in enumerate(steps):
        rate = step.saved_bytes / prices[step.layer, step.precision]
        rates[step.layer] = min(rate, rates.get(step.layer, rate))
        ranked.append((-rates[step.layer], place, step))
    return [step for _, _, step in sorted(ranked, key=lambda item: item[:2])]


def _fitting(
    steps: Sequence[_Step], least: int, budget: int, size: Callable[[Assignment], int]
) -> tuple[dict[str, str], int]:
    """As few steps as it takes to fit, and what the library takes with them.

    What weights save is known, what their kernels' code takes is not: where that makes it too large, as much more is
    to be saved.
    """
    aim = budget
    while True:
        taken = _taken(_shortest(steps, least, aim))
        needed = size(taken)
        if needed <= budget:
            return taken, needed
        aim -= needed - budget


def _shortest(steps: Sequence[_Step], least: int, budget: int) -> list[_Step]:
    """As many steps as it takes to fit, by what weights save alone, from what all of them leave."""
    left = float(least) + sum(step.saved_bytes for step in steps)
    taken: list[_Step] = []
    for step in steps:
        if left <= budget:
            break
        taken.append(step)
        left -= step.saved_bytes
    return taken


def _taken(steps: Sequence[_Step]) -> dict[str, str]:
    """The last step of each layer decides."""
    return {step.layer: step.precision for step in steps}
