"""How long each step of a graph takes, for decisions that no kernel alone can take.

Like the measurements of single kernels, these are an input of a build: they stand in its tuning file, and a build that
is given the file measures nothing.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lepton_compile.codegen import generate
from lepton_compile.lowering import Program
from lepton_compile.model import Graph
from lepton_compile.model.fingerprints import structure_of
from lepton_compile.tuning.cache import add_to_cache, cache_file, read_cache
from lepton_compile.tuning.prediction import predicted_seconds
from lepton_compile.tuning.table import TuningTable
from lepton_compile.tuning.tune import MEASURE, MODEL, Lower, how_to_tune, tuned

if TYPE_CHECKING:
    from lepton_compile.target import Target


class Stopwatch:
    """Measures programs, or predicts what they take, and remembers.

    Args:
        target: What they are for.
        tuning: As of `lepton_compile.tuning.tuned`.
        progress: Called with a line of text at long steps.

    Attributes:
        table: What was measured, or predicted, of whatever was asked.
    """

    def __init__(
        self, target: Target, tuning: str | os.PathLike[str] | None, progress: Callable[[str], None] | None = None
    ) -> None:
        self.table = TuningTable()
        self._target = target
        self._tuning = tuning
        self._progress = progress

    def seconds(self, graph: Graph, lower: Lower, settings: str = "") -> Mapping[str, float]:
        """Seconds of each step of a graph, by the names of its nodes, a line each.

        Args:
            graph: The graph, ready to be lowered.
            lower: From the algorithms to take to its program.
            settings: What else decides how it is lowered.
        """
        names = "\n".join(node.name for node in graph.nodes())
        text = f"{structure_of(graph)} {names} {settings} {self._target.cpu} {' '.join(self._target.features)}"
        key = f"steps of {hashlib.sha256(text.encode()).hexdigest()[:32]}"
        if key in self.table.measured:
            return self.table.measured[key]
        asked, path = how_to_tune(self._target, self._tuning), None
        known = TuningTable()
        if asked == MEASURE:
            path = cache_file(self._target)
            known = TuningTable() if path is None else read_cache(path)
        elif asked != MODEL:
            known = TuningTable.read(asked)
        seconds = known.measured.get(key)
        if seconds is None:
            if asked not in (MEASURE, MODEL):
                warnings.warn(f"the tuning file {asked} has no times of this graph; they are predicted", stacklevel=2)
            program, _ = tuned(lower, self._target, self._tuning, self._progress)
            seconds = self._measured(program) if asked == MEASURE else predicted_seconds(program, self._target)
            if path is not None:
                add_to_cache(path, TuningTable({key: seconds}))
        self.table = self.table.merged(TuningTable({key: seconds}))
        return seconds

    def _measured(self, program: Program) -> Mapping[str, float]:
        from lepton_compile.tuning.measure import least_seconds

        library = generate(program, self._target, progress=self._progress)
        return least_seconds(library.folder)
