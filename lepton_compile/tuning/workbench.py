"""What becomes of a graph that an approximate pass has in mind: how long it would take, and how large it would be."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lepton_compile.codegen import generate
from lepton_compile.lowering import Program, excess, lower, oversize
from lepton_compile.model import Graph
from lepton_compile.model.fingerprints import fingerprint
from lepton_compile.planning import finish
from lepton_compile.rewriting import Pass
from lepton_compile.target import Budget, Target
from lepton_compile.tuning.stopwatch import Stopwatch
from lepton_compile.tuning.table import TuningTable


class Workbench:
    """Builds candidates as they would be built in the end; the arguments are those of `compile`."""

    def __init__(
        self,
        target: Target,
        name: str,
        *,
        passes: Sequence[str | Pass] | None,
        tuning: str | os.PathLike[str] | None,
        exact_order: bool,
        progress: Callable[[str], None],
    ) -> None:
        # What is tried may exceed the budget, and memory; one that asks for small weights gets them.
        self._target = replace(target, budget=Budget(), resources=replace(target.resources, memory_bytes=None))
        self._limited = target
        self._name = name
        self._passes = passes
        self._exact_order = exact_order
        self._small: dict[str, bool] = {}
        self._stopwatch = Stopwatch(target, tuning, progress)

    @property
    def times(self) -> TuningTable:
        """What was measured, or predicted, of whatever was asked."""
        return self._stopwatch.table

    @times.setter
    def times(self, known: TuningTable) -> None:
        self._stopwatch.table = known

    def seconds(self, graph: Graph) -> Mapping[str, float]:
        """Seconds of each step, by the names of its nodes, a line each."""
        ready = finish(graph, self._target, passes=self._passes)
        small = self._is_small(ready)
        return self._stopwatch.seconds(
            ready, lambda table: self._lowered(ready, small=small, tuning=table), f"{small} {self._exact_order}"
        )

    def size(self, graph: Graph) -> int:
        """Bytes of the library; under a budget for size or memory the least that they can be."""
        ready = finish(graph, self._target, passes=self._passes)
        return self._size(self._lowered(ready, small=self._is_limited))

    def memory(self, graph: Graph) -> int:
        """Bytes that a run takes at its peak, weights included; the least under a budget, or where room is short."""
        ready = finish(graph, self._target, passes=self._passes)
        return self._lowered(ready, small=self._is_limited or self._is_small(ready)).peak_bytes

    def built_size(self, graph: Graph) -> int:
        """Bytes of the library as it is built in the end."""
        ready = finish(graph, self._target, passes=self._passes)
        return self._size(self._lowered(ready, small=self._is_small(ready)))

    def built_memory(self, graph: Graph) -> int:
        """Bytes that a run takes at its peak with the library as it is built in the end."""
        ready = finish(graph, self._target, passes=self._passes)
        return self._lowered(ready, small=self._is_small(ready)).peak_bytes

    @property
    def _is_limited(self) -> bool:
        budget = self._limited.budget
        return budget.size_bytes is not None or budget.memory_bytes is not None

    def _is_small(self, ready: Graph) -> bool:
        """Whether a library that is not small exceeds a budget, or the target's memory: then it is built so."""
        if not self._is_limited and self._limited.resources.memory_bytes is None:
            return False
        key = fingerprint(ready)
        if key not in self._small:
            self._small[key] = self._exceeds(self._lowered(ready, small=False))
        return self._small[key]

    def _exceeds(self, program: Program) -> bool:
        budget, available = self._limited.budget, self._limited.resources.memory_bytes
        if excess(program, budget, available) is not None:
            return True
        return budget.size_bytes is not None and oversize(self._size(program), budget) is not None

    def _size(self, program: Program) -> int:
        # A hash of the model stands in the library.
        library = generate(program, self._target, model_hash="0" * 64)
        return library.path.stat().st_size

    def _lowered(self, graph: Graph, *, small: bool, tuning: TuningTable | None = None) -> Program:
        taken = tuning.taken if tuning else {}
        return lower(graph, self._target, self._name, tuning=taken, exact_order=self._exact_order, small=small)
