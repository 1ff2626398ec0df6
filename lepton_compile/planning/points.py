"""Points: plans that were tried, with what each takes and what it costs; and which of them none other beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lepton_compile.model import Graph
from lepton_compile.planning.plan import Plan
from lepton_compile.rewriting.limits import Limit
from lepton_compile.rewriting.passes import Context

Settings = Mapping[str, object]
"""Settings of passes that were tried, by "pass.setting"."""


@dataclass(frozen=True)
class Point:
    """A plan that was tried.

    Attributes:
        settings: What passes were told.
        taken: What a run and the library take, by `Resource`'s values: seconds of "latency", bytes of "size" and
            "memory".
        drop: By how much the metric of the contract drops, its standard error included; 0 for an exact plan.
        plan: The plan.
        name: What it is called, if it is.
    """

    settings: Settings
    taken: Mapping[str, float]
    drop: float
    plan: Plan
    name: str = ""

    def beats(self, other: Point) -> bool:
        """Whether it takes no more of anything, costs no more, and is better in one of them."""
        one, another = (*self.taken.values(), self.drop), (*other.taken.values(), other.drop)
        return one != another and all(mine <= theirs for mine, theirs in zip(one, another, strict=True))

    def over(self, limited: Sequence[Limit]) -> float:
        """By how much more is taken than may be, in shares of that, of all together; 0 where it fits."""
        return math.fsum(max(0.0, self.taken[limit.resource.value] / limit.most - 1) for limit in limited)

    def record(self) -> dict[str, object]:
        """What reports tell of it, as JSON values."""
        return {"name": self.name, "settings": dict(self.settings), **self.taken, "drop": self.drop}


def point_of(graph: Graph, plan: Plan, context: Context, settings: Settings | None = None, name: str = "") -> Point:
    """What a plan takes, and costs.

    Args:
        graph: What the plan led to.
        plan: The plan.
        context: What tells; all of it.
        settings: What passes were told.
        name: What the plan is called.
    """
    measure, size, memory, contract = context.measure, context.size, context.memory, context.contract
    assert measure is not None and size is not None and memory is not None and contract is not None
    taken = {"latency": math.fsum(measure(graph).values()), "size": size(graph), "memory": memory(graph)}
    drop = 0.0 if plan.exact else contract.judge(graph).expected_drop
    return Point(settings or {}, taken, drop, plan, name)


def records(points: Sequence[Point], taken: Sequence[Point]) -> tuple[dict[str, object], ...]:
    """What reports tell of points, as JSON values, the fastest first."""
    unbeaten = front(points)
    return tuple(
        point.record() | {"on the front": point in unbeaten, "taken": any(point is each for each in taken)}
        for point in sorted(points, key=lambda point: point.taken["latency"])
    )


def front(points: Sequence[Point]) -> list[Point]:
    """The points that none other beats (Pareto, 1906), the fastest first; of equal ones the first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.taken["latency"], each.drop)):
        alike = any(each.taken == point.taken and each.drop == point.drop for each in found)
        if not alike and not any(other.beats(point) for other in points):
            found.append(point)
    return found


def best(points: Sequence[Point], limited: Sequence[Limit]) -> Point | None:
    """The point to take; None where none fits.

    Under limits it is the one that costs least, and of those that cost the same the fastest; without any the fastest.

    Args:
        points: Those that hold the contract.
        limited: What may be taken.
    """
    fitting = [point for point in points if not point.over(limited)]
    if limited:
        return min(fitting, key=lambda point: (point.drop, point.taken["latency"]), default=None)
    return min(fitting, key=lambda point: (point.taken["latency"], point.drop), default=None)
