"""steps.json: what each step of a run computes, for whoever profiles the library."""

from __future__ import annotations

import numpy as np

from lepton_compile.codegen.interface import static_nbytes
from lepton_compile.lowering.program import Buffer, Call, Kernel, Program

# The families whose every output takes one element of each input, or none: a gather reads the rows that it takes, not
# all of the table.
_MOVING = ("elementwise", "copy")


def describe_steps(program: Program) -> list[dict[str, object]]:
    """Every call of a program, in the order of the numbers that the library's profile reports.

    Returns:
        JSON objects: the step's number, kernel, family and ONNX nodes; the floating-point operations that it does, a
        multiply-add counting as two; the bytes that it has to move at least, each element once; in how many blocks it
        can be split over threads; and its operands' tensors, types, logical shapes, layouts, owners and bytes. A size
        that depends on a symbolic dimension is null.
    """
    return [_described(program, number, call) for number, call in enumerate(program.calls())]


def _described(program: Program, number: int, call: Call) -> dict[str, object]:
    kernel = program.kernels[call.kernel]
    buffers = [program.buffers[name] for name in call.arguments]
    moved = _moved_bytes(kernel, buffers)
    operands = [_operand(buffer, size) for buffer, size in zip(buffers, moved, strict=True)]
    return {
        "number": number,
        "kernel": kernel.name,
        "family": kernel.family,
        "nodes": list(call.nodes),
        "operations": kernel.operations,
        "blocks": kernel.blocks if call.parallel else 1,
        "inputs": operands[: kernel.inputs],
        "outputs": operands[kernel.inputs :],
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


def _moved_bytes(kernel: Kernel, buffers: list[Buffer]) -> list[int | None]:
    """What has to be read or written of each operand at least."""
    sizes = [static_nbytes(buffer) for buffer in buffers]
    if kernel.family not in _MOVING or None in sizes:
        return sizes
    itemsizes = [np.dtype(buffer.dtype).itemsize for buffer in buffers]
    made = sum(buffer.nbytes() // item for buffer, item in list(zip(buffers, itemsizes, strict=True))[kernel.inputs :])
    return [min(buffer.nbytes(), made * item) for buffer, item in zip(buffers, itemsizes, strict=True)]
