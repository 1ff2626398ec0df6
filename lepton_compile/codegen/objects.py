"""Objects of kernels that this process has built: programs that share kernels share the time to build them.

A model that is planned by measuring is built several times, each time with most kernels as they were.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from lepton_compile.codegen.pool import Task

KEPT_BYTES = 64 << 20
"""What is kept at most; the objects of a model take a few MiB."""

Key = tuple[object, ...]

_objects: OrderedDict[Key, bytes] = OrderedDict()
_lock = threading.Lock()


def build_missing(tasks: Sequence[Task], build: Callable[[Sequence[Task]], None]) -> None:
    """Write the objects of tasks: those that were built before as they were, the others by `build`."""
    missing = []
    for task in tasks:
        known = _find(task)
        if known is None:
            missing.append(task)
        else:
            Path(task.path).write_bytes(known)
    build(missing)
    for task in missing:
        _keep(task, Path(task.path).read_bytes())


def _key(task: Task) -> Key:
    return task.function, task.symbol, repr(sorted(task.target.items())), task.dimensions, task.noalias, task.small


def _find(task: Task) -> bytes | None:
    with _lock:
        found = _objects.get(_key(task))
        if found is not None:
            _objects.move_to_end(_key(task))
        return found


def _keep(task: Task, content: bytes) -> None:
    with _lock:
        _objects[_key(task)] = content
        total = sum(map(len, _objects.values()))
        while total > KEPT_BYTES and len(_objects) > 1:
            total -= len(_objects.popitem(last=False)[1])
