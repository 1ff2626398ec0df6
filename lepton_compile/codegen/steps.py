"""steps.json: what each step of a run computes, for whoever profiles the library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_compile.codegen.interface import static_nbytes
from lepton_compile.lowering.program import Buffer, Call, Choice, Kernel, Program

# The families whose every output takes one element of each input, or none: a gather reads the rows that it takes, not
# all of the table.
_MOVING = ("elementwise", "copy")


def describe_steps(program: Program, times: Mapping[str, float] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Every call of a program, in the order of the numbers that the library's profile reports.

    Args:
        program: The program.
        times: Seconds by the names of nodes, a line each; of the steps that compute the same nodes all together.

    Returns:
        JSON objects: the step's number, kernel, family and ONNX nodes; why that family took them, where there was a
        choice (`lepton_compile.lowering.program.Choice`); the floating-point operations that it does, a multiply-add
        counting as two; in how many blocks it is split over threads; and its operands: tensor, type, logical shape,
        layout, owner, bytes, and the bytes of it that the step has to move at least, each once. A size that depends on
        a symbolic dimension is null. Where `times` are given, its seconds: of steps for the same nodes, at the one
        that does most.
    """
    kernels = program.kernels
    writers = Counter(name for call in program.calls() for name in call.arguments[kernels[call.kernel].inputs :])
    choices = {choice.nodes: choice for choice in program.choices}
    steps = [
        _described(program, number, call, writers, choices.get(call.nodes))
        for number, call in enumerate(program.calls())
    ]
    left = dict(times)
    for step in sorted(steps, key=lambda each: -each["operations"]) if times else ():
        step["seconds"] = left.pop("\n".join(step["nodes"]), None)
    return steps


def _described(
    program: Program, number: int, call: Call, writers: Mapping[str, int], choice: Choice | None
) -> dict[str, Any]:
    kernel = program.kernels[call.kernel]
    buffers = [program.buffers[name] for name in call.arguments]
    read, written = buffers[: kernel.inputs], buffers[kernel.inputs :]
    return {
        "number": number,
        "kernel": kernel.name,
        "family": kernel.family,
        "choice": asdict(choice) if choice is not None else None,
        "nodes": list(call.nodes),
        "operations": kernel.operations,
        "blocks": kernel.blocks if call.parallel else 1,
        "inputs": [_operand(buffer, _read_bytes(kernel, buffer, written)) for buffer in read],
        # Where several steps write parts of one tensor, each is given its share.
        "outputs": [_operand(buffer, _divided(static_nbytes(buffer), writers[buffer.name])) for buffer in written],
    }


def _operand(buffer: Buffer, moved: int | None) -> dict[str, object]:
    return {
        "tensor": buffer.tensor,
        "dtype": buffer.dtype,
        "shape": list(buffer.shape),
        "layout": str(buffer.layout),
        "storage": buffer.storage.value,
        "bytes": static_nbytes(buffer),
        "moved_bytes": moved,
    }


def _read_bytes(kernel: Kernel, buffer: Buffer, written: Sequence[Buffer]) -> int | None:
    size = static_nbytes(buffer)
    if kernel.family not in _MOVING or size is None or any(static_nbytes(output) is None for output in written):
        return size
    elements = sum(output.nbytes() // np.dtype(output.dtype).itemsize for output in written)
    return min(size, elements * np.dtype(buffer.dtype).itemsize)


def _divided(size: int | None, parts: int) -> int | None:
    return None if size is None else size // parts
