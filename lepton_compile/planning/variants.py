"""Variants: plans for one model, from what keeps most of it to what takes least, that a library chooses among.

Under a contract they differ in widths and precisions: each has a budget for latency of a share of the one before, until
nothing faster holds the contract. Without one they differ in instruction sets: the target's, and the levels below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lepton_compile.model import Graph
from lepton_compile.planning.plan import Plan
from lepton_compile.planning.points import Point
from lepton_compile.target import Target, with_latency
from lepton_compile.target.processors import X86_LEVELS

FULL = "full"
"""What the variant is called that keeps most."""

# The latency that the next variant is asked for, and the one from which on it is worth its place, as shares of that of
# the one before.
_ASKED, _WORTH = 0.6, 0.9


@dataclass(frozen=True)
class Decided:
    """A variant.

    Attributes:
        name: What it is called: an identifier.
        target: What it is for.
        graph: What is compiled.
        plan: How that came about.
        times: Seconds of its steps on one thread, by the names of their nodes, a line each; none where nobody asked.
    """

    name: str
    target: Target
    graph: Graph
    plan: Plan
    times: Mapping[str, float]

    @property
    def seconds(self) -> float | None:
        """What a run takes on one thread; None where nobody asked."""
        return math.fsum(self.times.values()) if self.times else None


def faster(first: Decided, count: int, decide: Callable[[Target], Decided]) -> list[Decided]:
    """The first variant, and others that are faster, each by a tenth at least.

    Args:
        first: The one that keeps most; its seconds are known.
        count: How many there are to be, at most.
        decide: Decides for a target.
    """
    found = [first]
    while len(found) < count:
        before = found[-1].seconds
        assert before is not None
        made = decide(with_latency(first.target, _ASKED * before))
        if made.seconds is None or made.seconds > _WORTH * before:
            break
        found.append(made)
    return found


def in_order(decided: Iterable[Decided]) -> list[Decided]:
    """Variants of one model, each faster than the one before, by names that say so."""
    return [replace(each, name=f"fast{number}" if number else FULL) for number, each in enumerate(decided)]


def spread(points: Sequence[Point], taken: Point, count: int) -> list[Point]:
    """Of points that were tried, the one that was taken and up to so many in all that are faster, evenly apart.

    Args:
        points: Those on the front.
        taken: One of them.
        count: How many, at most.
    """
    found = [taken]
    quicker = sorted(
        (each for each in points if each.taken["latency"] <= _WORTH * taken.taken["latency"]),
        key=lambda each: -each.taken["latency"],
    )
    while quicker and len(found) < count:
        here, last = found[-1].taken["latency"], quicker[-1].taken["latency"]
        aim = here * (last / here) ** (1 / (count - len(found)))
        nearest = min(quicker, key=lambda each: abs(math.log(each.taken["latency"] / aim)))
        found.append(nearest)
        quicker = [each for each in quicker if each.taken["latency"] <= _WORTH * nearest.taken["latency"]]
    return found


def instruction_sets(target: Target, count: int) -> list[tuple[str, Target]]:
    """The target, and targets for the levels of x86-64 below it, at most so many in all, with identifiers."""
    found = [(_identifier(target.cpu), target)]
    features = target.enabled_features() if target.architecture == "x86_64" else frozenset[str]()
    below = [level for level, needed in X86_LEVELS.items() if needed <= features and level != target.cpu]
    for level in reversed(below):
        if X86_LEVELS[level] < features:
            found.append((_identifier(level), replace(target, cpu=level, features=())))
    return found[:count]


def _identifier(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)
