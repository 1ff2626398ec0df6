"""Look at every step of a run: what went into its kernel, what came out, and how long it took."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.codegen.artefact import Library
from lepton_compile.errors import BuildError
from lepton_compile.lowering.program import Buffer, Call
from lepton_compile.runtime.loader import CompiledModel, Tensor

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(ctypes.c_void_p))


@dataclass(frozen=True)
class TracedStep:
    """One call that has just run.

    Attributes:
        number: Its number among the program's calls.
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
    """Run a library that was generated with `trace=True` once, and show every step that runs to `visit`.

    Args:
        library: The library; its program has no symbolic dimensions.
        inputs: As for `CompiledModel.run`.
        visit: Called after each step, in order; steps of branches not taken are left out. What it raises ends the
            visits, and is raised again when the run is over.
        threads: Threads to run on.

    Returns:
        The outputs.

    Raises:
        BuildError: When the library can not trace.
        ShapeError: As for `CompiledModel.run`.
    """
    model = CompiledModel(library.folder, keep=library, verify=False)
    if not model.manifest["library"]["trace"]:
        raise BuildError(f"{library.name} was generated without trace=True")
    calls = tuple(library.program.calls())
    buffers = library.program.buffers
    raised: list[BaseException] = []

    def on_step(_context: object, number: int, nanoseconds: int, pointers: Any) -> None:
        if raised:
            return
        call = calls[number]
        try:
            arrays = {name: _view(buffers[name], pointers[index]) for index, name in enumerate(call.arguments)}
            visit(TracedStep(number, call, nanoseconds, arrays))
        except BaseException as error:  # C can not pass it on
            raised.append(error)

    callback = _CALLBACK(on_step)
    native, instance = model._opened(threads)
    set_trace = getattr(native, f"{library.name}_set_trace")
    set_trace.restype, set_trace.argtypes = None, [ctypes.c_void_p, _CALLBACK, ctypes.c_void_p]
    set_trace(instance, callback, None)
    outputs = model.run(inputs, threads=threads)
    if raised:
        raise raised[0]
    return outputs


def _view(buffer: Buffer, pointer: int) -> npt.NDArray[Any]:
    """The memory of a buffer as a read-only array."""
    dtype = Tensor(buffer.name, buffer.dtype, ()).numpy_dtype
    shape = buffer.physical_shape()
    if 0 in shape:
        return np.empty(shape, dtype)
    memory = (ctypes.c_uint8 * buffer.nbytes()).from_address(pointer)
    array: npt.NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
    array.flags.writeable = False
    return array
