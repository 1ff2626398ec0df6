"""Measuring algorithms: a program whose steps are trials of them, compiled as any other and profiled.

It runs in a process of its own, so that whatever a kernel does wrong is not the compiler's end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compile.codegen import generate
from lepton_compile.errors import BuildError
from lepton_compile.lowering.choosing import Problem
from lepton_compile.lowering.trials import trial_program
from lepton_compile.measuring.inputs import random_values
from lepton_compile.runtime.loader import load

if TYPE_CHECKING:
    from lepton_compile.target import Target

RUNS = 15
LIMIT = 120.0
"""Seconds that all trials of one program may take."""


def measure(
    problems: Sequence[Problem], target: Target, progress: Callable[[str], None] | None = None
) -> dict[str, dict[str, float]]:
    """Seconds, on one thread, of the contenders for each problem; by the problem's key and the algorithm's name.

    Args:
        problems: What is to be computed.
        target: A target that this machine can run.
        progress: Called with a line of text at long steps.

    Raises:
        BuildError: The trials could not be built, or did not end well.
    """
    program, trials = trial_program(problems, target)
    library = generate(program, target, progress=progress)
    if progress is not None:
        progress(f"measuring {len(trials)} algorithms for {len(problems)} kernels")
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for label, seconds in least_seconds(library.folder).items():
        key, name = trials[label]
        found[key][name] = seconds
    return dict(found)


def least_seconds(folder: Path) -> Mapping[str, float]:
    """Seconds of a library's steps, on one thread, each the least of `RUNS` runs; by the steps' nodes, a line each.

    Raises:
        BuildError: The library's process did not end well.
    """
    command = [sys.executable, "-P", "-m", "lepton_compile.tuning.measure", str(folder)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"measuring kernels took longer than {LIMIT:g} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise BuildError(f"measuring kernels failed (exit {error.returncode}): {lines[-1]}") from error
    times: dict[str, float] = json.loads(run.stdout)
    return times


def main(folder: str) -> None:
    """Profile a library, and print the least seconds of each of its steps.

    The least, since whatever else the machine does only adds. Between two runs of a step all the others run: of trials
    they fill the caches with their data, as a model's other layers would.
    """
    model = load(folder)
    profile = model.profile(random_values(model.inputs), runs=RUNS, threads=1)
    seconds: dict[str, float] = defaultdict(float)
    for number, step in enumerate(profile.steps):
        # The clock may not have moved during the shortest.
        seconds["\n".join(step["nodes"])] += max(1e-9, float(profile.step_seconds[:, number].min()))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1])
