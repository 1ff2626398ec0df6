"""The memory plan: one arena, in which buffers that are never alive together share memory.

Offsets are chosen greedily, the largest buffer first, each at the lowest place that no buffer alive at the same time
takes: "greedy by size" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
arXiv:2001.03288.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def plan_memory(buffers: Mapping[str, Buffer], steps: Sequence[Step], outputs: Sequence[Buffer]) -> MemoryPlan:
    """Place the arena's buffers.

    Outputs have memory in the arena too, for callers that pass none, and keep it until the next run.
    """
    placed: list[tuple[int, Lifetime]] = []
    for lifetime in sorted(lifetimes(buffers, steps, outputs), key=lambda each: (-each.nbytes, each.first, each.name)):
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
    for time, names in enumerate(uses(steps)):
        end = time
        for name in names:
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


def uses(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """What each step touches; of a branch, both sides one after the other, as if both ran."""
    for step in steps:
        if isinstance(step, Call):
            yield step.arguments
            continue
        yield (step.condition,)
        if isinstance(step, If):
            yield from uses(step.then_steps)
            yield from uses(step.else_steps)
