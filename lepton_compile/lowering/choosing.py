"""Several ways to compute the same: which one to take, as predicted or as measured before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# An algorithm of larger weights has to be this much faster to be worth them: by the model of costs, and by measurement.
WORTH_PREDICTED = 0.85
WORTH_MEASURED = 0.95
# What is predicted to take more than this many times as long as the best is not worth a measurement.
NEAR = 1.25


@dataclass(frozen=True)
class Algorithm:
    """A way to compute something.

    Attributes:
        name: What it is, and how it is cut; the same for equal problems on equal machines.
        cycles: What it is predicted to take, of one core.
        heavy: Whether its weights are several times larger than the model's.
        plan: What its kernel family makes kernels of.
    """

    name: str
    cycles: float
    heavy: bool
    plan: object


@dataclass(frozen=True)
class Problem:
    """Something that several algorithms can compute.

    Attributes:
        key: Says all that their speed depends on; of the machine its vectors alone.
        algorithms: The ways to compute it, at least one.
        subject: What it is, to whoever made the algorithms.
    """

    key: str
    algorithms: tuple[Algorithm, ...]
    subject: object

    def predicted(self) -> Algorithm:
        """The algorithm to take by the model of costs."""
        return _fastest({algorithm: algorithm.cycles for algorithm in self.algorithms}, WORTH_PREDICTED)

    def measured(self, seconds: Mapping[str, float]) -> Algorithm:
        """The algorithm to take by what was measured of some of them, at least one, by name."""
        known = {each: seconds[each.name] for each in self.algorithms if each.name in seconds}
        return _fastest(known, WORTH_MEASURED)

    def named(self, tuning: Mapping[str, str]) -> Algorithm | None:
        """The algorithm that a tuning (names by problems' keys) has for this problem, if it is one of them."""
        name = tuning.get(self.key)
        return next((algorithm for algorithm in self.algorithms if algorithm.name == name), None)

    def chosen(self, tuning: Mapping[str, str]) -> Algorithm:
        """The algorithm to take: the one that a tuning names, or else the predicted one."""
        return self.named(tuning) or self.predicted()

    def contenders(self) -> tuple[Algorithm, ...]:
        """The algorithms among which the prediction may err."""
        limit = NEAR * min(algorithm.cycles for algorithm in self.algorithms)
        return tuple(algorithm for algorithm in self.algorithms if algorithm.cycles <= limit)


def _fastest(costs: Mapping[Algorithm, float], worth: float) -> Algorithm:
    return min(costs, key=lambda each: (costs[each] / (worth if each.heavy else 1.0), each.name))
