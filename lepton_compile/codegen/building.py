"""The kernels of a library: which to build, and under which names. Kernels that programs share are built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lepton_compile.codegen.pool import Task
from lepton_compile.codegen.variants import Variant
from lepton_compile.lowering.program import Buffer, Kernel, Program, location


def kernel_tasks(variants: Sequence[Variant], folder: Path) -> tuple[list[Task], list[Mapping[str, str]]]:
    """What to build for the kernels that are called.

    Args:
        variants: The programs, and what they are compiled for.
        folder: Where the objects go.

    Returns:
        A task for every kernel, and for every program the C names of its kernels.
    """
    tasks: dict[tuple[object, ...], Task] = {}
    named: set[str] = set()
    symbols: list[Mapping[str, str]] = []
    for variant in variants:
        program, target = variant.program, variant.target.tvm()
        used = {call.kernel for call in program.calls()}
        overlapping = _overlapping_kernels(program)
        ours: dict[str, str] = {}
        for kernel in program.kernels.values():
            if kernel.name not in used:
                continue
            noalias = kernel.name not in overlapping
            # All that the object depends on.
            key = (
                kernel.family,
                kernel.digest,
                repr(sorted(target.items())),
                program.dimensions,
                noalias,
                program.small,
            )
            if key not in tasks:
                symbol = _symbol(program, kernel, named)
                named.add(symbol)
                tasks[key] = Task(
                    kernel=kernel.name,
                    nodes=kernel.nodes,
                    function=kernel.text,
                    symbol=symbol,
                    target=target,
                    path=folder / f"k{len(tasks)}.o",
                    dimensions=program.dimensions,
                    noalias=noalias,
                    small=program.small,
                )
            ours[kernel.name] = tasks[key].symbol
        symbols.append(ours)
    return list(tasks.values()), symbols


def _symbol(program: Program, kernel: Kernel, taken: set[str]) -> str:
    """The C name of a kernel: what it computes decides, not its place among others, so that objects can be shared.

    The same computation for another instruction set has a number behind it.
    """
    base = f"{program.name}_{kernel.family.replace(' ', '_')}_{kernel.digest}"
    symbol, count = base, 2
    while symbol in taken:
        symbol, count = f"{base}_{count}", count + 1
    return symbol


def _overlapping_kernels(program: Program) -> set[str]:
    """The kernels that some call gives an output which shares memory with another argument."""
    found = set()
    for call in program.calls():
        inputs = program.kernels[call.kernel].inputs
        buffers = [program.buffers[argument] for argument in call.arguments]
        for position, output in enumerate(buffers[inputs:], inputs):
            others = buffers[:position] + buffers[position + 1 :]
            if any(_overlap(program, output, other) for other in others):
                found.add(call.kernel)
    return found


def _overlap(program: Program, first: Buffer, second: Buffer) -> bool:
    """Whether two buffers share memory, an output being in the caller's or in the arena."""
    (a, begin), (b, start) = location(program.buffers, first.name), location(program.buffers, second.name)
    if a != b:
        offsets = program.memory.offsets
        if a not in offsets or b not in offsets:
            return False
        begin, start = offsets[a] + begin, offsets[b] + start
    try:
        return begin < start + second.nbytes() and start < begin + first.nbytes()
    except TypeError:  # a symbolic size
        return True
