"""Latency of compiled models beside onnxruntime's and, where it is installed, OpenVINO's.

    python benchmarks/latency.py [--threads N] [--models nudenet,ppocr-rec] [--target host] [--json FILE]

The engines take turns on one model after another, so that whatever else the machine does meets all of them: each round
gives every engine a block of runs, in another order each time, and the first run of a block, which finds the caches
full of another engine, does not count. What is printed is the median over all rounds and the ratio of medians. Before
that, the answers are compared; an engine that does not agree with onnxruntime is marked.

All engines compute in float32, on the same number of threads, on the same inputs. `pip install -e '.[test,bench]'`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import corpus  # noqa: E402 (found through the line above)

import lepton_compile  # noqa: E402
from lepton_compile.evaluation.compare import compare_outputs  # noqa: E402

Feed = dict[str, np.ndarray[Any, Any]]
Run = Callable[[Feed], Feed]

OURS, ONNXRUNTIME, OPENVINO = "lepton_compile", "onnxruntime", "openvino"
BLOCK_SECONDS = 0.05


@dataclass
class Measurement:
    """What one engine did with one model.

    Attributes:
        load_seconds: Time to make the engine ready: compiling, or creating the session.
        seconds: Time of each run.
        problem: Why there are no times, or in what the answers differ from onnxruntime's.
    """

    load_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def median(self) -> float:
        """Median seconds of a run; NaN where there is none."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default %(default)s)")
    parser.add_argument("--models", default=",".join(corpus.NAMES), help="which models, with commas (default all)")
    parser.add_argument("--target", default="host", help="what to compile for (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long to measure a model (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted(set(names) - set(corpus.NAMES)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(corpus.NAMES)}")
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")

    console = Console()
    results: dict[str, dict[str, Measurement]] = {}
    for name in names:
        with console.status(name):
            results[name] = measure(name, arguments.target, arguments.threads, arguments.seconds)
    console.print(table(results, arguments.threads))
    for name, engines in results.items():
        for engine, measured in engines.items():
            if measured.problem:
                console.print(f"{name}: {engine}: {measured.problem}", style="red")
    if arguments.json:
        record = {"machine": machine(), "threads": arguments.threads, "target": arguments.target} | report(results)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(name: str, target: str, threads: int, seconds: float) -> dict[str, Measurement]:
    """Load a model into every engine, compare their answers, and time them in turn."""
    feed = next(iter(corpus.real_feeds(name).values()))
    loaders: dict[str, Callable[[], Run]] = {
        ONNXRUNTIME: lambda: load_onnxruntime(name, threads),
        OURS: lambda: load_ours(name, target, threads),
    }
    if "openvino" in installed():
        loaders[OPENVINO] = lambda: load_openvino(name, threads)
    runs: dict[str, Run] = {}
    results: dict[str, Measurement] = {}
    expected: Feed = {}
    for engine, load in loaders.items():
        measured = results[engine] = Measurement()
        begin = time.perf_counter()
        try:
            run = load()
            measured.load_seconds = time.perf_counter() - begin
            answer = run(feed)
        except Exception as error:  # an engine that cannot run a model is a result, too
            measured.problem = f"fails: {' '.join(str(error).split())[:200]}"
            continue
        expected = expected or answer
        # onnxruntime's Sigmoid rules out channels of tiny scores; see lepton_compile.evaluation.reference.
        mismatches = compare_outputs(answer, expected, channel_tolerance=np.inf)
        measured.problem = "; ".join(map(str, mismatches))
        runs[engine] = run
    for engine, times in alternate(
        {engine: lambda run=run: run(feed) for engine, run in runs.items()}, seconds
    ).items():
        results[engine].seconds = times
    return results


def alternate(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of every run, in rounds of blocks that take turns in going first; at least 5 rounds."""
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    order = list(runs)
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < 5 or time.perf_counter() < until:
        for engine in order:
            runs[engine]()
            block_end = time.perf_counter() + BLOCK_SECONDS
            while True:
                begin = time.perf_counter()
                runs[engine]()
                end = time.perf_counter()
                times[engine].append(end - begin)
                if end >= block_end:
                    break
        order = order[1:] + order[:1]
        rounds += 1
    return times


def load_ours(name: str, target: str, threads: int) -> Run:
    """The model, compiled."""
    path, shapes = corpus.model_path(name), corpus.shapes(name)
    return lepton_compile.compile(path, target, shapes=shapes, threads=threads).run


def load_onnxruntime(name: str, threads: int) -> Run:
    """The model in onnxruntime, with all of its optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(corpus.model_path(name), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(outputs, session.run(outputs, feed), strict=True))


def load_openvino(name: str, threads: int) -> Run:
    """The model in OpenVINO, with static shapes, and kept from computing in bfloat16."""
    import openvino

    core = openvino.Core()
    model = core.read_model(corpus.model_path(name))
    model.reshape({tensor: list(shape) for tensor, shape in corpus.shapes(name).items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    # The order is ONNX's; of the names, OpenVINO keeps those that its own optimisations leave.
    outputs = [output.name for output in onnx.load(corpus.model_path(name)).graph.output]

    def run(feed: Feed) -> Feed:
        request.infer(feed, share_inputs=True)
        return {output: request.get_output_tensor(index).data.copy() for index, output in enumerate(outputs)}

    return run


def table(results: dict[str, dict[str, Measurement]], threads: int) -> Table:
    """Medians, ratios of medians, and geometric means of these."""
    peers = [engine for engine in (ONNXRUNTIME, OPENVINO) if any(engine in engines for engines in results.values())]
    shown = Table(title=f"median latency in ms, {threads} thread{'s' if threads > 1 else ''}; below 1 we are faster")
    shown.add_column("model", no_wrap=True)
    for heading in ("ours", *peers, *(f"ours / {peer}" for peer in peers), "compile s"):
        shown.add_column(heading, justify="right")
    for name, engines in results.items():
        medians = [f"{engines[engine].median * 1e3:.3f}" for engine in (OURS, *peers)]
        ratios = [f"{ratio(engines, peer):.2f}" for peer in peers]
        shown.add_row(name, *medians, *ratios, f"{engines[OURS].load_seconds:.1f}")
    shown.add_section()
    for group, means in means_of(results).items():
        shown.add_row(f"mean of {group}", *[""] * (1 + len(peers)), *(f"{means[peer]:.2f}" for peer in peers), "")
    return shown


def means_of(results: dict[str, dict[str, Measurement]]) -> dict[str, dict[str, float]]:
    """Geometric means of our median over each peer's, over the CNNs and over all models that both ran."""
    peers = sorted({engine for engines in results.values() for engine in engines} - {OURS})
    groups = {"CNNs": [name for name in results if name in corpus.CNNS], "all": list(results)}
    return {
        group: {peer: geometric_mean(ratio(results[name], peer) for name in members) for peer in peers}
        for group, members in groups.items()
    }


def ratio(engines: dict[str, Measurement], peer: str) -> float:
    """Our median over a peer's; NaN where one of them did not run."""
    return engines[OURS].median / engines[peer].median if peer in engines else math.nan


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of the values that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.geometric_mean(known) if known else math.nan


def report(results: dict[str, dict[str, Measurement]]) -> dict[str, Any]:
    """Everything that was measured, as JSON values."""

    def described(measured: Measurement) -> dict[str, Any]:
        record: dict[str, Any] = {"load_seconds": measured.load_seconds, "problem": measured.problem}
        if measured.seconds:
            deciles = np.quantile(measured.seconds, [0.0, 0.1, 0.9]).tolist()
            record |= {"median": measured.median, "runs": len(measured.seconds)}
            record |= dict(zip(("fastest", "decile_1", "decile_9"), deciles, strict=True))
        return record

    models = {name: {engine: described(m) for engine, m in engines.items()} for name, engines in results.items()}
    means = {
        group: {peer: None if math.isnan(mean) else mean for peer, mean in peers.items()}
        for group, peers in means_of(results).items()
    }
    return {"models": models, "geometric_means_of_ours_over": means}


def machine() -> dict[str, Any]:
    """The machine and the versions of what was measured."""
    host = lepton_compile.sense_host()
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "cpu": host.cpu,
        "features": list(host.features),
        "threads_usable": host.resources.threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
        "versions": {package: version for package, version in installed().items() if package in _PACKAGES},
    }


_PACKAGES = ("lepton-compile", "onnxruntime", "openvino", "apache-tvm", "onnx", "numpy")


def installed() -> dict[str, str]:
    """Installed packages and their versions."""
    return {item.metadata["Name"].lower(): item.version for item in importlib.metadata.distributions()}


if __name__ == "__main__":
    main()
