"""Whatever a kernel does to the compiler, the calling process lives and learns which kernel it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tvm
from tvm import tirx
from tvm.tirx import stmt

from lepton_compile.codegen.pool import Task, WorkerPool
from lepton_compile.errors import BuildError

X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(2)
    yield pool
    pool.close()


def task(folder: Path, name: str, function: tirx.PrimFunc) -> Task:
    return Task(name, (f"node_{name}",), tvm.ir.save_json(function), f"toy_{name}", X86, folder / f"{name}.o", (), True)


def good(folder: Path, make_map_kernel, name: str = "good") -> Task:
    return task(folder, name, make_map_kernel(name, lambda a: a + a, 4, 16).function)


def aborting() -> tirx.PrimFunc:
    """vpdpbusd on a processor without VNNI: LLVM can not select the instruction and aborts."""
    x = tirx.decl_buffer((4, 16), "int32", name="x")
    y = tirx.decl_buffer((4, 16), "int32", name="y")
    i, lanes = tirx.Var("i", "int32"), tirx.Ramp(0, 1, 16)
    value = tirx.BufferLoad(x, [i, lanes])
    bytes_ = tirx.reinterpret("int8x64", value)
    dot = tirx.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", value, bytes_, bytes_)
    return tirx.PrimFunc([x, y], stmt.For(i, 0, 4, stmt.ForKind.PARALLEL, stmt.BufferStore(y, dot, [i, lanes])))


def hanging() -> tirx.PrimFunc:
    """A loop that is to be unrolled two thousand million times."""
    x, y = (tirx.decl_buffer((4,), "float32", name=name) for name in "xy")
    i, j = tirx.Var("i", "int32"), tirx.Var("j", "int32")
    body = stmt.BufferStore(y, tirx.BufferLoad(x, [j % 4]) + tirx.BufferLoad(y, [i]), [i])
    unrolled = stmt.For(j, 0, 2**31 - 1, stmt.ForKind.UNROLLED, body)
    return tirx.PrimFunc([x, y], stmt.For(i, 0, 4, stmt.ForKind.PARALLEL, unrolled))


def malformed(make_map_kernel) -> tirx.PrimFunc:
    function = make_map_kernel("twice", lambda a: a + a, 4, 16).function
    return tirx.PrimFunc(list(function.params), stmt.SeqStmt([function.body, function.body]))


def test_good_kernels_are_built(pool: WorkerPool, tmp_path: Path, make_map_kernel) -> None:
    tasks = [good(tmp_path, make_map_kernel, f"k{index}") for index in range(5)]
    pool.build(tasks)
    assert all(task.path.stat().st_size > 0 for task in tasks)


@pytest.mark.parametrize(
    ("kind", "limit", "reason"),
    [
        ("aborting", 60.0, r"the compiler crashed \((SIGABRT|SIGSEGV)\)"),
        ("hanging", 2.0, "it took longer than 2 s"),
        ("malformed", 60.0, "2 outermost parallel loops"),
    ],
)
def test_a_bad_kernel_is_named_and_the_pool_goes_on(
    pool: WorkerPool, tmp_path: Path, make_map_kernel, kind: str, limit: float, reason: str
) -> None:
    function = {"aborting": aborting, "hanging": hanging, "malformed": lambda: malformed(make_map_kernel)}[kind]()
    with pytest.raises(BuildError, match=reason) as caught:
        pool.build([good(tmp_path, make_map_kernel), task(tmp_path, "bad", function)], limit=limit)
    assert "kernel bad (ONNX nodes: node_bad)" in str(caught.value)
    assert caught.value.facts["nodes"] == ("node_bad",)
    assert "\n" not in str(caught.value)
    pool.build([good(tmp_path, make_map_kernel, "after")])
    assert (tmp_path / "after.o").exists()


def test_the_rest_is_called_off_after_a_failure(pool: WorkerPool, tmp_path: Path, make_map_kernel) -> None:
    tasks = [task(tmp_path, "bad", malformed(make_map_kernel))]
    tasks += [good(tmp_path, make_map_kernel, f"k{index}") for index in range(400)]
    with pytest.raises(BuildError, match="kernel bad"):
        pool.build(tasks)
    assert not tasks[-1].path.exists()


def test_threads_share_the_pool(pool: WorkerPool, tmp_path: Path, make_map_kernel) -> None:
    errors = []

    def build(number: int) -> None:
        try:
            pool.build([good(tmp_path, make_map_kernel, f"t{number}_{index}") for index in range(3)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(list(tmp_path.glob("t*.o"))) == 9


SCRIPT = """
import os, sys, tvm
from tvm import tirx
from tvm.tirx import stmt
from pathlib import Path
from lepton_compile.codegen.pool import Task, workers
x, y = (tirx.decl_buffer((4,), "float32", name=name) for name in "xy")
i = tirx.Var("i", "int32")
f = tirx.PrimFunc([x, y], stmt.For(i, 0, 4, stmt.ForKind.PARALLEL, stmt.BufferStore(y, tirx.BufferLoad(x, [i]), [i])))
target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
def build(name):
    workers().build([Task("k", (), tvm.ir.save_json(f), "k", target, Path(name), (), True)])
build("parent.o")
child = os.fork()
if child == 0:
    build("child.o")
    os._exit(0)  # TVM itself does not survive an orderly exit of a forked child
assert os.waitpid(child, 0)[1] == 0
build("again.o")
"""


def test_a_script_needs_no_main_guard_and_may_fork(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=120)
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["again.o", "child.o", "parent.o"]


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import time\nfrom lepton_compile.codegen.pool import _Worker\nworker = _Worker()\n"
        "print(worker._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and not _zombie(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists() or _zombie(worker)


def _zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_worker_that_can_not_start_says_why(tmp_path: Path, make_map_kernel, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    (tmp_path / "tvm.py").write_text("raise ImportError('broken installation')\n")
    broken = WorkerPool(1)
    monkeypatch.undo()
    try:
        with pytest.raises(BuildError, match="broken installation"):
            broken.build([good(tmp_path, make_map_kernel)])
    finally:
        broken.close()
