"""Results that take the memory of an operand which nobody needs any more.

An element-wise kernel that reads an operand at the place of its result alone can write over it: the arena then holds
one tensor in place of two, and a large one is not fetched from memory in order to be overwritten. In exchange the
kernel is compiled without the promise that its pointers are apart, and loads again and again what is the same for all
elements. So small results, which a cache holds anyway, get memory of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lepton_compile.lowering.memory import lifetimes, timeline
from lepton_compile.lowering.program import Buffer, Call, Kernel, Step, Storage, location

IN_PLACE_BYTES = 256 * 1024
"""The smallest result that is computed in place."""


def compute_in_place(
    buffers: Mapping[str, Buffer], kernels: Mapping[str, Kernel], steps: Sequence[Step], outputs: Sequence[Buffer]
) -> dict[str, Buffer]:
    """Turn results into views of operands that die as they are computed.

    Args:
        buffers: All buffers by name.
        kernels: All kernels by name.
        steps: What is to run, in order.
        outputs: Buffers that are needed after the end.

    Returns:
        The buffers.
    """
    shared = dict(buffers)
    alive = {each.name: each for each in lifetimes(buffers, steps, outputs)}
    last = {name: each.last for name, each in alive.items()}
    for time, call in enumerate(timeline(steps)):
        if not isinstance(call, Call) or not kernels[call.kernel].in_place:
            continue
        result = call.arguments[-1]
        if not _owns(shared, result) or alive[result].first != time:
            continue
        for place in kernels[call.kernel].in_place:
            operand, _ = location(shared, call.arguments[place])
            if (
                _owns(shared, operand)
                and shared[operand].nbytes() == shared[result].nbytes() >= IN_PLACE_BYTES
                and last[operand] == time
                and not _read_elsewhere(shared, kernels[call.kernel], call, operand)
            ):
                shared[result] = replace(shared[result], view_of=operand)
                last[operand] = last[result]
                break
    return shared


def _owns(buffers: Mapping[str, Buffer], name: str) -> bool:
    """Whether a buffer has memory of its own in the arena."""
    return buffers[name].view_of is None and buffers[name].storage is Storage.ARENA


def _read_elsewhere(buffers: Mapping[str, Buffer], kernel: Kernel, call: Call, owner: str) -> bool:
    """Whether a call reads a buffer's memory by other arguments than those that it reads in place."""
    others = [name for place, name in enumerate(call.arguments[: kernel.inputs]) if place not in kernel.in_place]
    return any(location(buffers, name)[0] == owner for name in others)
