"""Which algorithms a build takes: from a tuning file, measured on this machine, or left to the model of costs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from lepton_compile.errors import BuildError, LeptonError
from lepton_compile.lowering import Program
from lepton_compile.lowering.choosing import Problem
from lepton_compile.tuning.cache import add_to_cache, cache_file, read_cache
from lepton_compile.tuning.table import TuningTable

if TYPE_CHECKING:
    from lepton_compile.target import Target

MEASURE, MODEL = "measure", "model"
DEFAULT_VARIABLE = "LEPTON_TUNING"

Lower = Callable[[TuningTable], Program]


def tuned(
    lower: Lower,
    target: Target,
    tuning: str | os.PathLike[str] | None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Program, TuningTable]:
    """Lower a model with the fastest algorithms.

    Args:
        lower: From the algorithms to take to the program.
        target: The machine to compile for.
        tuning: "measure" (on this machine, once: what was measured is kept in the user's cache), "model" (nothing is
            measured), or a tuning file, which decides what it names and leaves the rest to the model. None: what the
            environment variable LEPTON_TUNING says; else "measure" for the target "host", and "model" for others.
        progress: Called with a line of text at long steps.

    Returns:
        The program, and what was taken in it.

    Raises:
        LeptonError: The file cannot be used, or measuring is asked for a machine other than this.
        BuildError: Measuring was asked for, not only the default, and the kernels could not be built or measured.
    """
    asked = how_to_tune(target, tuning)
    if asked == MODEL:
        return _taken(lower(TuningTable()), TuningTable())
    if asked != MEASURE:
        table = TuningTable.read(asked)
        program = lower(table)
        if left := [problem for problem in program.problems if _is_open(problem, table)]:
            warnings.warn(
                f"the tuning file {asked} is of another target, version or model: it does not say how to compute "
                f"{len(left)} of {len(program.problems)} kernels, which the model of costs decides",
                stacklevel=3,
            )
        return _taken(program, table)
    path = cache_file(target)
    table = TuningTable() if path is None else read_cache(path)
    program = lower(table)
    unknown = [problem for problem in program.problems if _is_open(problem, table)]
    if any(problem.key in table.taken for problem in unknown):
        warnings.warn(f"the tuning cache {path} is of another machine or version; it is measured anew", stacklevel=3)
    if unknown:
        from lepton_compile.tuning.measure import measure

        try:
            measured = measure(unknown, target, progress)
        except BuildError as error:
            if tuning:
                raise
            warnings.warn(f"algorithms are chosen by the model of costs: {error}", stacklevel=3)
            return _taken(program, table)
        taken = {each.key: each.measured(measured[each.key]).name for each in unknown}
        found = TuningTable(measured, taken)
        if path is not None:
            add_to_cache(path, found)
        table = table.merged(found)
        program = lower(table)
    return _taken(program, table)


def how_to_tune(target: Target, tuning: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """What `tuned` does for this argument: "measure", "model", or a tuning file.

    Raises:
        LeptonError: Measuring is asked for a machine other than this.
    """
    asked = tuning or os.environ.get(DEFAULT_VARIABLE) or (MEASURE if target.name == "host" else MODEL)
    if asked == MEASURE and (obstacle := target.host_obstacle()):
        if tuning:
            raise LeptonError(f"kernels for '{target.name}' cannot be measured on this machine: {obstacle}")
        return MODEL
    return asked


def _is_open(problem: Problem, table: TuningTable) -> bool:
    return len(problem.contenders()) > 1 and problem.named(table.taken) is None


def _taken(program: Program, table: TuningTable) -> tuple[Program, TuningTable]:
    """What a program took, whoever decided it: as a tuning file it gives the same program again."""
    chosen = {problem.key: problem.chosen(table.taken).name for problem in program.problems}
    return program, TuningTable(table.restricted(frozenset(chosen)).measured, chosen)
