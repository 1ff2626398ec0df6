"""Kernels run where they are built, through the same steps as in a library but for the linker."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from tvm import tirx
from tvm.tirx import stmt

from lepton_compile.codegen.kernels import _LOWER, plain_function
from lepton_compile.kernels.kernel import Definition, Machine
from lepton_compile.target import sense_host

Array = npt.NDArray[np.generic]
Run = Callable[..., Array]

LIBC = ctypes.CDLL(None)
UNWRITTEN = 0xA5

# Instruction sets as kernels see them, from SSE to AVX-512; any of them runs on this machine, LLVM splits what is wide.
MACHINES = [Machine(4, 8), Machine(4, 16), Machine(8, 16), Machine(8, 32), Machine(16, 32)]


@pytest.fixture(scope="session")
def target() -> tvm.target.Target:
    return tvm.target.Target(sense_host().tvm())


@pytest.fixture(params=MACHINES, ids=lambda machine: f"{machine.lanes}x{machine.registers}")
def machine(request: pytest.FixtureRequest) -> Machine:
    chosen: Machine = request.param
    return chosen


def before_a_forbidden_page(nbytes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Memory that ends where a page begins that may not be touched, and all that lies in front of it in its pages."""
    page = mmap.PAGESIZE
    allowed = max(1, -(-nbytes // page)) * page
    memory = mmap.mmap(-1, allowed + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert LIBC.mprotect(ctypes.c_void_p(address + allowed), ctypes.c_size_t(page), 0) == 0
    content = np.frombuffer(memory, np.uint8, allowed)
    content[:] = UNWRITTEN
    return content[allowed - nbytes :], content[: allowed - nbytes]


def executable(definition: Definition, target: tvm.target.Target) -> Callable[..., None]:
    """The kernel as a Python function of addresses, begin and end."""
    plain = plain_function(definition.function, "kernel", target)
    pointers = [tirx.Var(f"p{place}", "handle") for place in range(len(definition.function.params))]
    begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    call = stmt.Evaluate(tirx.call_extern("int32", "kernel", *pointers, begin, end))
    entry = tirx.PrimFunc([*pointers, begin, end], call)
    entry = entry.with_attr("global_symbol", "entry").with_attr("target", target.with_host(target))
    transform = tirx.transform
    packed = tvm.ir.transform.Sequential(
        [transform.MakePackedAPI(), transform.LowerTVMBuiltin(), transform.LowerIntrin()]
    )
    module = _LOWER(tvm.IRModule({"kernel": plain}))
    module.update(packed(tvm.IRModule({"entry": entry})))
    built = tvm.get_global_func("target.build.llvm")(module, target)
    function: Callable[..., None] = built["entry"]
    # The code goes with its module.
    return lambda *arguments, keep=built: function(*arguments)


@pytest.fixture(scope="session")
def run_ranges(target: tvm.target.Target) -> Callable[..., list[Array]]:
    """Run a kernel of any number of outputs: `run_ranges(definition, inputs, outputs, ranges)`."""

    def call(
        definition: Definition,
        inputs: Sequence[Array],
        outputs: Sequence[tuple[tuple[int, ...], str]],
        ranges: Sequence[tuple[int, int]],
    ) -> list[Array]:
        assert len(inputs) == definition.inputs
        places = []
        for array in inputs:
            memory, _ = before_a_forbidden_page(array.nbytes)
            memory[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            places.append(memory)
        fronts = []
        for shape, dtype in outputs:
            memory, front = before_a_forbidden_page(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            if np.dtype(dtype).kind == "f":
                memory.view(dtype)[:] = np.nan
            places.append(memory)
            fronts.append(front)
        function = executable(definition, target)
        for begin, end in ranges:
            function(*(ctypes.c_void_p(memory.ctypes.data) for memory in places), begin, end)
        assert all((front == UNWRITTEN).all() for front in fronts), "the kernel wrote in front of its output"
        made = places[len(inputs) :]
        return [memory.view(dtype).reshape(shape).copy() for memory, (shape, dtype) in zip(made, outputs, strict=True)]

    return call


@pytest.fixture(scope="session")
def run(run_ranges: Callable[..., list[Array]]) -> Run:
    """Run a kernel of one output: `run(definition, *inputs, output=shape, dtype="float32")`.

    Always in two ranges, the second one first, as threads might. The output starts as NaN, so that what is not written
    shows; inputs and output end where memory ends, so that what reads or writes past them crashes.
    """

    def call(definition: Definition, *inputs: Array, output: tuple[int, ...], dtype: str = "float32") -> Array:
        cut = (definition.blocks + 1) // 2
        ranges = [(cut, definition.blocks), (0, cut)]
        (result,) = run_ranges(definition, inputs, [(output or (1,), dtype)], ranges)
        return result

    return call
