"""What becomes of a graph that an approximate pass has in mind: how long it would take, and how large it would be."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lepton_compile.codegen import generate
from lepton_compile.lowering import Program, lower
from lepton_compile.model import Graph
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
        self._small = target.budget.size_bytes is not None or target.budget.memory_bytes is not None
        self._available = target.resources.memory_bytes
        self._name = name
        self._passes = passes
        self._exact_order = exact_order
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
        return self._stopwatch.seconds(
            ready,
            lambda table: self._lowered(ready, small=self._small, tuning=table),
            f"{self._small} {self._exact_order}",
        )

    def size(self, graph: Graph) -> int:
        """Bytes of the library; under a budget for size or memory with weights as small as the graph has them."""
        ready = finish(graph, self._target, passes=self._passes)
        # A hash of the model stands in the library.
        library = generate(self._lowered(ready, small=self._small), self._target, model_hash="0" * 64)
        return library.path.stat().st_size

    def memory(self, graph: Graph) -> int:
        """Bytes that a run takes at its peak, weights included; with weights as small as memory asks for."""
        ready = finish(graph, self._target, passes=self._passes)
        program = self._lowered(ready, small=self._small)
        if not self._small and self._available is not None and program.process_bytes > self._available:
            program = self._lowered(ready, small=True)
        return program.peak_bytes

    def _lowered(self, graph: Graph, *, small: bool, tuning: TuningTable | None = None) -> Program:
        taken = tuning.taken if tuning else {}
        return lower(graph, self._target, self._name, tuning=taken, exact_order=self._exact_order, small=small)
