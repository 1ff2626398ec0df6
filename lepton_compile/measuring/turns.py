"""Latency, measured in turns: what else the machine does meets all engines alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# How long one engine runs before it is another's turn.
BLOCK_SECONDS = 0.05
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of a run.

    Attributes:
        minimum: The fastest run.
        median: Half of the runs were faster.
        decile_9: Nine of ten runs were faster.
        runs: How many runs were timed.
    """

    minimum: float
    median: float
    decile_9: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """The latency from the seconds of single runs."""
        minimum, median, decile_9 = np.quantile(seconds, [0.0, 0.5, 0.9]).tolist()
        return cls(minimum, median, decile_9, len(seconds))


def take_turns(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Latency]:
    """Measure several engines in rounds of blocks.

    Each round gives every engine a block of runs, in another order each time. The first run of a block, which finds the
    caches full of another engine, does not count.

    Args:
        runs: What one run of each engine is, by the engine's name.
        seconds: How long to measure in all; at least `LEAST_ROUNDS` rounds are made.

    Returns:
        The latency of each engine.
    """
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    order = list(runs)
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < until:
        for engine in order:
            runs[engine]()
            block_end = time.perf_counter() + BLOCK_SECONDS
            while True:
                begin = time.perf_counter()
                runs[engine]()
                end = time.perf_counter()
                times[engine].append(end - begin)
                if end >= block_end:
                    break
        order = order[1:] + order[:1]
        rounds += 1
    return {engine: Latency.of(measured) for engine, measured in times.items()}
