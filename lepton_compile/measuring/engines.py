"""Several engines on one model: loaded, their answers compared, and timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lepton_compile.measuring.peers import Arrays, Run
from lepton_compile.measuring.turns import Latency, take_turns


@dataclass(frozen=True)
class Measurement:
    """What one engine did with one model.

    Attributes:
        load_seconds: Time to make the engine ready: compiling, or creating the session.
        latency: Seconds of a run; None where it can not run the model.
        problem: Why there is no latency, or in what the answers differ from what is expected.
    """

    load_seconds: float
    latency: Latency | None
    problem: str = ""

    @property
    def counts(self) -> bool:
        """Whether it ran, and gave the right answers."""
        return self.latency is not None and not self.problem


def measure_engines(
    loaders: Mapping[str, Callable[[], Run]],
    inputs: Arrays,
    seconds: float,
    expected: Arrays | None = None,
) -> dict[str, Measurement]:
    """Measure engines in turns.

    Args:
        loaders: What makes each engine ready, by its name.
        inputs: A value for every input.
        seconds: How long to measure in all.
        expected: The right answers; None: those of the first engine that works.
    """
    runs: dict[str, Run] = {}
    loads: dict[str, float] = {}
    problems: dict[str, str] = {}
    for engine, load in loaders.items():
        begin = time.perf_counter()
        try:
            run = load()
            loads[engine] = time.perf_counter() - begin
            answer = run(inputs)
        except Exception as error:  # an engine that cannot run a model is a result, too
            problems[engine] = f"fails: {' '.join(str(error).split())[:200]}"
            continue
        expected = answer if expected is None else expected
        problems[engine] = "" if answer is expected else _differences(answer, expected)
        runs[engine] = run
    latencies = take_turns({engine: lambda run=run: run(inputs) for engine, run in runs.items()}, seconds)  # type: ignore[misc]
    return {engine: Measurement(loads.get(engine, 0.0), latencies.get(engine), problems[engine]) for engine in loaders}


def _differences(answer: Arrays, expected: Arrays) -> str:
    """In what answers differ; axes of one element do not count, which some engines leave out."""
    from lepton_compile.evaluation.compare import compare_outputs

    shaped = {
        name: array.reshape(expected[name].shape) if name in expected and array.size == expected[name].size else array
        for name, array in answer.items()
    }
    # onnxruntime's Sigmoid rules out channels of tiny scores; see lepton_compile.evaluation.reference.
    return "; ".join(map(str, compare_outputs(shaped, expected, channel_tolerance=np.inf)))
