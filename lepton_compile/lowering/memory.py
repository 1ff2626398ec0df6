"""The memory plan: one arena, in which buffers that are never alive together share memory.

Offsets are chosen greedily, each buffer at the lowest place that no buffer alive at the same time takes, the largest
first: "greedy by size" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
arXiv:2001.03288. Where long-lived buffers leave gaps that way, the longest-lived first may do better: several orders
are tried, and the smallest arena is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lepton_compile.lowering.program import Buffer, Call, If, MemoryPlan, Step, Storage, location

# The start of every buffer: a cache line, and the widest vector.
ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """Memory that one buffer, and what views it, needs from its first use to its last."""

    name: str
    nbytes: int
    first: int
    last: int

    @property
    def duration(self) -> int:
        """In steps."""
        return self.last - self.first + 1


# The first in the arena come those of the smallest value; at equal values, the largest.
ORDERS: tuple[Callable[[Lifetime], int], ...] = (
    lambda each: -each.nbytes,
    lambda each: -each.duration,
    lambda each: -each.nbytes * each.duration,
)


def plan_memory(buffers: Mapping[str, Buffer], steps: Sequence[Step], outputs: Sequence[Buffer]) -> MemoryPlan:
    """Place the arena's buffers.

    Outputs have memory in the arena too, for callers that pass none, and keep it until the next run.
    """
    alive = sorted(lifetimes(buffers, steps, outputs), key=lambda each: (-each.nbytes, each.first, each.name))
    return min((_greedy(sorted(alive, key=order)) for order in ORDERS), key=lambda plan: plan.arena_bytes)


def _greedy(order: Iterable[Lifetime]) -> MemoryPlan:
    """Place buffers in the order given, each as low as it can be."""
    placed: list[tuple[int, Lifetime]] = []
    for lifetime in order:
        offset = 0
        for start, other in sorted(placed, key=lambda entry: entry[0]):
            if other.last < lifetime.first or lifetime.last < other.first:
                continue
            if offset + lifetime.nbytes <= start:
                break
            offset = max(offset, start + other.nbytes)
        placed.append((offset, lifetime))
    return MemoryPlan(
        offsets={lifetime.name: offset for offset, lifetime in sorted(placed, key=lambda entry: entry[1].name)},
        arena_bytes=max((offset + lifetime.nbytes for offset, lifetime in placed), default=0),
    )


def lifetimes(buffers: Mapping[str, Buffer], steps: Sequence[Step], outputs: Sequence[Buffer]) -> list[Lifetime]:
    """First and last use of every buffer that needs memory of the arena, in the order in which steps stand."""
    owned: dict[str, list[int]] = {}
    end = 0
    for time, step in enumerate(timeline(steps)):
        end = time
        for name in touched(step):
            root, _ = location(buffers, name)
            if buffers[root].storage in (Storage.ARENA, Storage.OUTPUT):
                owned.setdefault(root, []).append(time)
    for output in outputs:
        owned.setdefault(output.name, [0])
    lent = {output.name for output in outputs}
    return [
        Lifetime(
            name,
            -(-buffers[name].nbytes() // ALIGNMENT) * ALIGNMENT,
            min(times),
            end + 1 if name in lent else max(times),
        )
        for name, times in owned.items()
    ]


def timeline(steps: Sequence[Step]) -> Iterator[Step]:
    """Every step in order; after a branch, those of both sides one after the other, as if both ran."""
    for step in steps:
        yield step
        if isinstance(step, If):
            yield from timeline(step.then_steps)
            yield from timeline(step.else_steps)


def touched(step: Step) -> tuple[str, ...]:
    """The buffers that a step itself reads or writes."""
    return step.arguments if isinstance(step, Call) else (step.condition,)
