"""The objects that kernels become: what they may assume, what they need, and that they are the same every time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from codegen.objects import functions, instructions, undefined
from tvm import tirx
from tvm.tirx import stmt

from lepton_compile import runtime
from lepton_compile.codegen.kernels import LOCAL_BYTES, build_object

X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}
AVX2 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}
FOREIGN = {
    "aarch64-linux-gnu": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53", "mattr": ["+neon"]},
    "riscv64-linux-gnu": {
        "kind": "llvm",
        "mtriple": "riscv64-linux-gnu",
        "mcpu": "generic-rv64",
        "mattr": ["+m", "+a", "+f", "+d", "+c"],
        "mabi": "lp64d",
    },
}


def add(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return a + b


def test_the_object_holds_one_function_and_needs_nothing(tmp_path: Path, make_map_kernel) -> None:
    kernel = make_map_kernel("add", add, 4, 32, 2, vector=16)
    build_object(kernel.function, "toy_add", AVX2, tmp_path / "k.o")
    assert undefined(tmp_path / "k.o") == set()
    assert functions(tmp_path / "k.o") == ["toy_add"]


def test_functions_of_libm_are_the_only_ones_called(tmp_path: Path, make_map_kernel) -> None:
    kernel = make_map_kernel("exp", lambda a: tirx.exp(a) + tirx.floor(a), 4, 32, vector=16)
    build_object(kernel.function, "toy_exp", X86, tmp_path / "k.o")
    assert undefined(tmp_path / "k.o") <= {"expf", "floorf"}


@pytest.mark.parametrize("target", [X86, AVX2], ids=["sse", "avx2"])
def test_the_callers_memory_need_not_be_aligned(tmp_path: Path, make_map_kernel, target) -> None:
    kernel = make_map_kernel("add", add, 4, 32, 2, vector=16)
    build_object(kernel.function, "toy_add", target, tmp_path / "k.o")
    code = instructions(tmp_path / "k.o")
    assert any(re.match(r"v?movup[sd] .*\[", line) for line in code)
    # Aligned moves, and SSE arithmetic on memory, fault on unaligned addresses.
    assert [line for line in code if re.match(r"v?movap[sd] .*\[(?!rsp|rbp)|addps .*\[", line)] == []


def test_noalias_is_a_promise_that_can_be_withheld(tmp_path: Path, make_map_kernel) -> None:
    """With the promise LLVM makes vectors of a scalar loop; without it, an element may be the next one's input."""
    kernel = make_map_kernel("add", add, 4, 32, 2)
    for noalias in (True, False):
        path = tmp_path / f"{noalias}.o"
        build_object(kernel.function, "f", AVX2, path, noalias=noalias)
        assert any(line.startswith("vaddps") for line in instructions(path)) == noalias


def with_locals(size: int | tirx.Var, buffers: int = 1) -> tirx.PrimFunc:
    """Rows of x, shuffled by way of local buffers."""
    x, y = (tirx.decl_buffer((64, 64), "float32", name=name) for name in "xy")
    i = tirx.Var("i", "int32")
    parts: list[tirx.Stmt] = []
    for number in range(buffers):
        j, k = tirx.Var("j", "int32"), tirx.Var("k", "int32")
        local = tirx.decl_buffer((size,), "float32", name="local")
        write = stmt.BufferStore(local, tirx.BufferLoad(x, [i, j]), [j * 7 % 64])
        read = stmt.BufferStore(y, tirx.BufferLoad(local, [k]), [i, k])
        loops = [stmt.For(j, 0, 64, stmt.ForKind.SERIAL, write), stmt.For(k, number, 63, stmt.ForKind.SERIAL, read)]
        parts += [stmt.AllocBuffer(local), *loops]
    return tirx.PrimFunc([x, y], stmt.For(i, 0, 64, stmt.ForKind.PARALLEL, stmt.SeqStmt(parts)))


def test_large_local_buffers_lie_on_the_stack(tmp_path: Path) -> None:
    build_object(with_locals(64 * 64), "f", X86, tmp_path / "k.o")
    assert undefined(tmp_path / "k.o") <= {"memcpy", "memset"}
    assert any(re.match(r"sub rsp, 0x4\w{3}$", line) for line in instructions(tmp_path / "k.o"))


def test_local_buffers_fit_the_stack_of_the_runtimes_threads(tmp_path: Path) -> None:
    build_object(with_locals(LOCAL_BYTES // 4), "f", X86, tmp_path / "k.o")
    for function in (with_locals(LOCAL_BYTES // 4 + 1), with_locals(LOCAL_BYTES // 8 + 1, buffers=2)):
        with pytest.raises(
            ValueError, match=r"its local buffers take 10485\d\d bytes of stack, and 1048576 are allowed"
        ):
            build_object(function, "f", X86, tmp_path / "k.o")
    header = (Path(str(runtime.__file__)).parent / "lepton_pool.h").read_text()
    assert re.search(r"LEPTON_STACK_BYTES = 2 << 20\b", header)
    assert LOCAL_BYTES == 1 << 20


def test_a_kernel_has_one_parallel_loop(tmp_path: Path, make_map_kernel) -> None:
    function = make_map_kernel("add", add, 4, 32, 2).function
    twice = tirx.PrimFunc(list(function.params), stmt.SeqStmt([function.body, function.body]))
    with pytest.raises(ValueError, match="2 outermost parallel loops"):
        build_object(twice, "f", X86, tmp_path / "k.o")


def test_the_same_kernel_gives_the_same_bytes(tmp_path: Path, make_map_kernel) -> None:
    for name in ("one.o", "two.o"):
        build_object(make_map_kernel("add", add, 4, 32, 2, vector=16).function, "f", X86, tmp_path / name)
    assert (tmp_path / "one.o").read_bytes() == (tmp_path / "two.o").read_bytes()


@pytest.mark.parametrize("triple", FOREIGN)
def test_float16_needs_no_library(tmp_path: Path, make_map_kernel, triple: str) -> None:
    kernel = make_map_kernel("half", lambda a: a * tirx.const(3, "float16"), 4, 32, dtype="float16", vector=16)
    build_object(kernel.function, "f", FOREIGN[triple], tmp_path / "k.o")
    assert not {name for name in undefined(tmp_path / "k.o") if "hf" in name and not name.startswith("__")}
