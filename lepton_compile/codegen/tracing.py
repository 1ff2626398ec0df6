"""Look at every step of a run: what went into its kernel, what came out, and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_compile.codegen.artefact import Library
from lepton_compile.lowering.program import Call, Program, Storage, location
from lepton_compile.runtime.loader import ALIGNMENT, CompiledModel, Prepared, Tensor

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TracedStep:
    """One call that has just run.

    Attributes:
        number: Its number in steps.json.
        call: The call.
        nanoseconds: How long it took.
        arrays: Its arguments by buffer name, in their physical shape. They are the library's own memory, which later
            steps reuse: copy what is to be kept.
    """

    number: int
    call: Call
    nanoseconds: int
    arrays: Mapping[str, npt.NDArray[Any]]


def trace(
    library: Library,
    inputs: Mapping[str, npt.ArrayLike],
    visit: Callable[[TracedStep], None],
    *,
    threads: int = 1,
) -> dict[str, npt.NDArray[Any]]:
    """Run a library once, and show every step that runs to `visit`.

    The library tells which step has run, as for any profile. Where its operands lie is known from the program, since
    the arena and the outputs of this run are memory of ours.

    Args:
        library: The library; its programs have no symbolic dimensions. Of several variants, the one that suits this
            machine is run.
        inputs: As for `CompiledModel.run`.
        visit: Called after each step, in order; steps of branches not taken are left out. What it raises ends the
            visits, and is raised again when the run is over.
        threads: Threads to run on.

    Returns:
        The outputs.

    Raises:
        ShapeError: As for `CompiledModel.run`.
    """
    model = CompiledModel(library.folder, keep=library)
    programs = [variant.program for variant in library.variants]
    calls = [call for program in programs for call in program.calls()]
    arena = _aligned(max(program.memory.arena_bytes for program in programs))
    prepared = model.prepare(inputs)
    instance = model.create_instance(threads, arena)
    memory = _Memory(programs[instance.taken], arena, prepared)

    def on_step(number: int, nanoseconds: int) -> None:
        call = calls[number]
        visit(TracedStep(number, call, nanoseconds, {name: memory.view(name) for name in call.arguments}))

    instance.run(prepared, on_step)
    return dict(prepared.outputs)


def _aligned(size: int) -> Bytes:
    """Memory that an arena may be."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size]


class _Memory:
    """The memory of a program's buffers during one run."""

    def __init__(self, program: Program, arena: Bytes, prepared: Prepared) -> None:
        self._program = program
        self._arena = arena
        self._weights = {name: np.ascontiguousarray(values) for name, values in program.weights.items()}
        self._arrays = dict(zip((b.name for b in program.inputs), prepared.inputs.values(), strict=True))
        self._arrays |= dict(zip((b.name for b in program.outputs), prepared.outputs.values(), strict=True))

    def view(self, name: str) -> npt.NDArray[Any]:
        """A buffer as a read-only array in its physical shape."""
        buffer = self._program.buffers[name]
        dtype = Tensor(buffer.name, buffer.dtype, ()).numpy_dtype
        shape = buffer.physical_shape()
        if 0 in shape:
            return np.empty(shape, dtype)
        owner, offset = location(self._program.buffers, name)
        storage = self._program.buffers[owner].storage
        if storage is Storage.ARENA:
            memory = self._arena[self._program.memory.offsets[owner] :]
        else:
            whole = self._weights[owner] if storage is Storage.WEIGHT else self._arrays[owner]
            memory = whole.reshape(-1).view(np.uint8)
        array: npt.NDArray[Any] = memory[offset:][: buffer.nbytes()].view(dtype).reshape(shape)
        array.flags.writeable = False
        return array
