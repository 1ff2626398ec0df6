"""Copies that need not be made: tensors are put where they would be copied to, or read where they lie.

Concat, Split, Slice, a Gather of neighbours and a Reshape into an output are lowered to kernels that copy. Where such a
kernel does no more than copy a range of memory as it is, both of its buffers can share that memory and the call is
dropped. Two ways lead there, as in the coalescing of registers (Chaitin, "Register allocation and spilling via graph
coloring", 1982):

- the source lies in the destination: who computes an operand of a Concat writes to its place in the result. In a chain
  of Concats, as DenseNet has them, all results share one buffer;
- the destination lies in the source: a part of a Split is where it was.

A program writes each value once and reads it afterwards. So sharing is right when nobody else writes to the
destination, and nobody to the source once it was copied. The calls within branches of an If are taken in the order in
which they stand, as if both ran; that can only refuse too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from lepton_compile.lowering.program import Buffer, Call, If, Kernel, Step, Storage, calls_of, location


@dataclass(frozen=True)
class _Range:
    """Bytes [begin, end) of the memory that a buffer owns."""

    owner: str
    begin: int
    end: int

    def meets(self, other: _Range) -> bool:
        """Whether two ranges have bytes in common."""
        return self.owner == other.owner and self.begin < other.end and other.begin < self.end


@dataclass(frozen=True)
class _Copy:
    """What a call does that copies memory as it is, at its time among all calls."""

    time: int
    source: _Range
    destination: _Range


def place(
    buffers: Mapping[str, Buffer], kernels: Mapping[str, Kernel], steps: Sequence[Step]
) -> tuple[dict[str, Buffer], tuple[Step, ...]]:
    """Let the buffers of copies share memory where that changes nothing.

    Args:
        buffers: All buffers by name.
        kernels: All kernels by name.
        steps: What is to run, in order.

    Returns:
        The buffers, some of which have become views, and the steps without the copies that have become needless.
    """
    placement = _Placement(dict(buffers), kernels, tuple(calls_of(steps)))
    placement.run()
    return placement.buffers, _without(steps, {id(placement.calls[time]) for time in placement.dropped})


class _Placement:
    """The buffers and calls while copies are taken out one by one, in the order in which they stand."""

    def __init__(self, buffers: dict[str, Buffer], kernels: Mapping[str, Kernel], calls: Sequence[Call]) -> None:
        self.buffers, self.kernels, self.calls = buffers, kernels, calls
        self.dropped: set[int] = set()
        self.writes: dict[str, list[tuple[int, str]]] = {}  # of each owner of memory: when, and to which buffer in it
        for time, call in enumerate(calls):
            for name in call.arguments[kernels[call.kernel].inputs :]:
                self.writes.setdefault(location(buffers, name)[0], []).append((time, name))

    def run(self) -> None:
        for time, call in enumerate(self.calls):
            if self.kernels[call.kernel].copies is None:
                continue
            copy = self.copy(time)
            if copy.source != copy.destination:
                if self.can_lie_in_source(copy):
                    self.share(copy.destination.owner, copy.source.owner, copy.source.begin)
                elif self.can_lie_in_destination(copy):
                    behind = copy.destination.begin - copy.source.begin
                    self.share(copy.source.owner, copy.destination.owner, behind)
                else:
                    continue
            self.dropped.add(time)

    def copy(self, time: int) -> _Copy:
        """A call that copies."""
        call = self.calls[time]
        source, destination = call.arguments
        first = self.kernels[call.kernel].copies
        assert first is not None
        count = self.buffers[destination].nbytes()
        return _Copy(
            time,
            self.range(source, first * np.dtype(self.buffers[source].dtype).itemsize, count),
            self.range(destination, 0, count),
        )

    def range(self, name: str, begin: int, nbytes: int) -> _Range:
        """Bytes of a buffer, in the memory that it lies in."""
        owner, offset = location(self.buffers, name)
        return _Range(owner, offset + begin, offset + begin + nbytes)

    def can_lie_in_source(self, copy: _Copy) -> bool:
        """Whether the destination, all of it, can be a view of the source."""
        whole = self.buffers[copy.destination.owner]
        return (
            whole.storage is Storage.ARENA
            and (copy.destination.begin, copy.destination.end) == (0, whole.nbytes())
            and copy.source.end <= self.buffers[copy.source.owner].nbytes()
            and copy.source.owner != copy.destination.owner
            and self.writers(copy.destination) == {copy.time}
            and max(self.writers(copy.source), default=-1) < copy.time
        )

    def can_lie_in_destination(self, copy: _Copy) -> bool:
        """Whether the source, with all that lies in the same memory, can be a part of the destination."""
        source, destination = copy.source, copy.destination
        behind = destination.begin - source.begin
        moved = _Range(destination.owner, behind, behind + self.buffers[source.owner].nbytes())
        if (
            self.buffers[source.owner].storage is not Storage.ARENA
            or source.owner == destination.owner
            or moved.begin < 0
            or moved.end > self.buffers[destination.owner].nbytes()
        ):
            return False
        written = max(self.writers(_Range(source.owner, 0, moved.end - moved.begin)), default=-1)
        return all(self.puts(time, source.owner, behind) and written < time for time in self.writers(moved))

    def puts(self, time: int, owner: str, behind: int) -> bool:
        """Whether a call copies from the memory of `owner` to a place that many bytes behind, and no more."""
        if self.kernels[self.calls[time].kernel].copies is None:
            return False
        copy = self.copy(time)
        return copy.source.owner == owner and copy.destination.begin - copy.source.begin == behind

    def writers(self, memory: _Range) -> set[int]:
        """The calls, of those that are left, that write to some of these bytes."""
        return {
            time
            for time, name in self.writes.get(memory.owner, ())
            if time not in self.dropped and self.range(name, 0, self.buffers[name].nbytes()).meets(memory)
        }

    def share(self, name: str, owner: str, offset: int) -> None:
        """Put a buffer into the memory of another."""
        self.buffers[name] = replace(self.buffers[name], view_of=owner, offset=offset)
        self.writes.setdefault(owner, []).extend(self.writes.pop(name, ()))


def _without(steps: Sequence[Step], dropped: Set[int]) -> tuple[Step, ...]:
    """The steps, those of branches too, without these calls."""
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, If):
            step = replace(
                step, then_steps=_without(step.then_steps, dropped), else_steps=_without(step.else_steps, dropped)
            )
        if id(step) not in dropped:
            kept.append(step)
    return tuple(kept)
