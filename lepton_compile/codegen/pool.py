"""Worker processes that build kernels, because TVM and LLVM abort on what they do not like.

The workers are plain subprocesses rather than `multiprocessing` ones, so that they work from scripts without a
`__main__` guard, from notebooks and from threads. They start early, so that their import of TVM overlaps with reading
and rewriting the model, and stay for the next compile.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from lepton_compile.codegen.worker import read_message, write_message
from lepton_compile.errors import BuildError

START_LIMIT = 120.0
KERNEL_LIMIT = 120.0


@dataclass(frozen=True)
class Task:
    """One kernel to build.

    Attributes:
        kernel: The kernel's name, for errors.
        nodes: The ONNX nodes that it computes, for errors.
        function: Text of its TVM function (`tvm.ir.save_json`).
        symbol: Name of the C function.
        target: What `tvm.target.Target` takes.
        path: Where the object file goes.
        dimensions: Names of the symbolic dimensions.
        noalias: Whether no two pointers overlap.
        small: Whether its code is to be small.
    """

    kernel: str
    nodes: tuple[str, ...]
    function: str
    symbol: str
    target: Mapping[str, object]
    path: Path
    dimensions: tuple[str, ...]
    noalias: bool
    small: bool = False


class _Worker:
    """One subprocess, used by one thread at a time."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        # -P: the current folder may hold a module that shadows one of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lepton_compile.codegen.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            bufsize=0,
        )
        self._ready = False

    def build(self, task: Task, limit: float) -> None:
        """Have one kernel built.

        Raises:
            BuildError: When it can not be built. The worker may be dead then: see `alive`.
        """
        if not self._ready:
            self._exchange(None, START_LIMIT, task)
            self._ready = True
        request = {
            "function": task.function,
            "symbol": task.symbol,
            "target": dict(task.target),
            "path": str(task.path),
            "dimensions": list(task.dimensions),
            "noalias": task.noalias,
            "small": task.small,
        }
        self._exchange(request, limit, task)

    def _exchange(self, request: dict[str, object] | None, limit: float, task: Task) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(limit, expire)
        timer.daemon = True
        timer.start()
        answer = None
        try:
            with contextlib.suppress(BrokenPipeError):  # a dead worker shows in the answer that does not come
                if request is not None:
                    write_message(self._process.stdin, request)  # type: ignore[arg-type]
                answer = read_message(self._process.stdout)  # type: ignore[arg-type]
        finally:
            timer.cancel()
        if answer is not None and answer["error"] is None:
            return
        if answer is not None:
            reason = _essence(answer["error"])
        elif expired.is_set():
            reason = f"it took longer than {limit:g} s"
        else:
            reason = f"the compiler crashed ({_exit_text(self._process.wait())}): {_essence(self._log_text())}"
        self.close()
        raise BuildError(
            f"kernel {task.kernel} (ONNX nodes: {', '.join(task.nodes) or 'none'}) can not be built: {reason}",
            kernel=task.kernel,
            nodes=task.nodes,
            reason=reason,
        )

    def _log_text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


def _exit_text(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit {code}"


def _essence(text: str) -> str:
    """The line of a TVM, LLVM or Python error that says what is wrong, without the stack."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "Cannot" in line or "Check failed" in line]
    chosen = (telling or lines or ["no message"])[-1]
    return chosen if len(chosen) <= 300 else chosen[:300] + "..."


class WorkerPool:
    """A few workers, shared by all compiles of this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(size):
            self._idle.put(_Worker())

    def build(self, tasks: Sequence[Task], *, limit: float = KERNEL_LIMIT) -> None:
        """Build all of the tasks.

        Args:
            tasks: What to build.
            limit: Seconds that one kernel may take.

        Raises:
            BuildError: Names the first kernel (in the order of `tasks`) that failed before the rest was called off.
        """
        stop = threading.Event()

        def run(task: Task) -> None:
            if stop.is_set():
                return
            worker = self._idle.get()
            try:
                if not worker.alive():
                    worker.close()
                    worker = _Worker()
                worker.build(task, limit)
            except BaseException:
                stop.set()
                raise
            finally:
                self._idle.put(worker)

        with ThreadPoolExecutor(self.size) as threads:
            futures = [threads.submit(run, task) for task in tasks]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            for future in futures:
                future.result()

    def close(self) -> None:
        """End the workers; nothing may be building."""
        for _ in range(self.size):
            self._idle.get().close()


_pool: WorkerPool | None = None
_lock = threading.Lock()


def workers() -> WorkerPool:
    """The pool of this process, started on the first call; call it early so that the workers are ready when needed."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = WorkerPool(max(2, min(8, len(os.sched_getaffinity(0)))))
            atexit.register(shutdown)
        return _pool


def shutdown() -> None:
    """End the workers of this process, if there are any."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.close()
        _pool = None


def _forget() -> None:
    """A forked child must not talk to its parent's workers."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
