"""Latency of compiled models beside onnxruntime's, OpenVINO's and ncnn's, and beside what the machine allows.

    python benchmarks/latency.py [--threads N] [--models nudenet,ppocr-rec] [--target host] [--json FILE] [--markdown]
    python benchmarks/latency.py --avx2

The engines take turns on one model after another, so that whatever else the machine does meets all of them
(`lepton_compile/measuring/turns.py`). What is printed is the median, and how many times faster ours is than the best
engine that gives the right answers. An engine that cannot run a model, or whose answers differ, is named and does not
count.

All engines compute in float32, on the same file, the same number of threads and the same inputs. Beside each model
stands its roofline: the least time that its steps could take on this machine, and what share of it was reached.

--avx2 compares code for x86-64-v3 with OpenVINO whose oneDNN is kept to AVX2 (ONEDNN_MAX_CPU_ISA). What OpenVINO does
without oneDNN, element-wise code and matrix products by MLAS, uses the processor's widest vectors all the same.

`pip install -e '.[test,bench]'`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if "--avx2" in sys.argv:
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # read when OpenVINO is loaded

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import corpus  # noqa: E402 (found through the line above)

import lepton_compile  # noqa: E402
from lepton_compile.cli.table import print_table  # noqa: E402
from lepton_compile.measuring.bench import OURS  # noqa: E402
from lepton_compile.measuring.engines import Measurement, measure_engines  # noqa: E402
from lepton_compile.measuring.machine import describe_machine, processors  # noqa: E402
from lepton_compile.measuring.peers import PEERS, Run, is_installed, load_peer  # noqa: E402
from lepton_compile.measuring.profile import step_times, together  # noqa: E402
from lepton_compile.measuring.roofline import Roofline, footprint, measure_roofline  # noqa: E402
from lepton_compile.measuring.tables import geometric_mean, known, markdown, number  # noqa: E402

# What the geometric mean is over; of silero, as it is published.
COUNTED = (*corpus.REAL_CNNS, "minilm", "silero", *corpus.LIGHT_NETS)
PROFILED_RUNS = 20


@dataclass(frozen=True)
class Result:
    """What was measured of one model.

    Attributes:
        engines: What each engine did.
        bound: Seconds that the steps of ours take at least; NaN where ours fails.
        profiled: Seconds that they took together, timed one by one.
        operations: Floating-point operations that are left in them.
    """

    engines: dict[str, Measurement]
    bound: float = math.nan
    profiled: float = math.nan
    operations: int = 0

    def median(self, engine: str) -> float:
        """Median seconds of a run; NaN where there is none."""
        latency = self.engines[engine].latency if engine in self.engines else None
        return math.nan if latency is None else latency.median

    def times_faster(self, engine: str) -> float:
        """How many times faster ours is; NaN where one of them does not count."""
        counts = engine in self.engines and self.engines[engine].counts and self.engines[OURS].counts
        return self.median(engine) / self.median(OURS) if counts else math.nan

    def best_peer(self) -> str | None:
        """The fastest of the other engines that count."""
        peers = [engine for engine, measured in self.engines.items() if engine != OURS and measured.counts]
        return min(peers, key=self.median, default=None)

    def times_faster_than_best(self) -> float:
        """How many times faster ours is than the best peer; NaN where there is none."""
        best = self.best_peer()
        return math.nan if best is None else self.times_faster(best)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default %(default)s)")
    parser.add_argument("--models", default=",".join(corpus.NAMES), help="which models, with commas (default all)")
    parser.add_argument("--target", default="host", help="what to compile for (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long to measure a model (default %(default)s)")
    parser.add_argument("--avx2", action="store_true", help="x86-64-v3 against OpenVINO kept to AVX2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted(set(names) - set(corpus.NAMES)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(corpus.NAMES)}")
    if not 1 <= arguments.threads <= processors():
        parser.error(f"--threads must be at least 1 and at most {processors()}, the processors that may be used")
    # onnxruntime is there for its answers, and to be measured unless it can not be kept to AVX2.
    peers = ["openvino"] if arguments.avx2 else [peer for peer in PEERS if is_installed(peer)]
    target = lepton_compile.resolve_target("x86-64-v3" if arguments.avx2 else arguments.target)

    console = Console()
    with console.status("the machine"):
        roofline = measure_roofline(target, arguments.threads)
    results: dict[str, Result] = {}
    for name in names:
        with console.status(name):
            results[name] = measure(name, target, peers, arguments.threads, arguments.seconds, roofline)
    header, rows = table(results, peers)
    plural = "s" if arguments.threads > 1 else ""
    title = f"median latency in ms, {arguments.threads} thread{plural}, {target.name}; x: times faster, above 1 is ours"
    print(f"{title}\n")
    if arguments.markdown:
        print(f"{markdown(header, rows)}\n")
    else:
        print_table(rows, header)
    print(described(roofline))
    for name, result in results.items():
        for engine, measured in result.engines.items():
            if measured.problem:
                print(f"{name}: {engine}: {measured.problem}")
    if arguments.json:
        record = {
            "machine": describe_machine(),
            "threads": arguments.threads,
            "target": target.name,
            "avx2": arguments.avx2,
        }
        record |= {"roofline": asdict(roofline)} | report(results, peers)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(
    name: str,
    target: lepton_compile.Target,
    peers: Sequence[str],
    threads: int,
    seconds: float,
    roofline: Roofline,
) -> Result:
    """Load a model into every engine, compare their answers, time them in turn, and profile ours."""
    feed = next(iter(corpus.real_feeds(name).values()))
    path = corpus.model_path(name)
    compiled: list[lepton_compile.CompiledModel] = []

    def load_ours() -> Run:
        compiled.append(lepton_compile.compile(path, target, shapes=corpus.shapes(name), threads=threads))
        return compiled[0].run

    loaders: dict[str, Callable[[], Run]] = {
        peer: lambda peer=peer: load_peer(peer, path, feed, threads) for peer in peers
    }
    expected = load_peer("onnxruntime", path, feed, threads)(feed)
    engines = measure_engines(loaders | {OURS: load_ours}, feed, seconds, expected)
    if engines[OURS].latency is None:
        return Result(engines)
    model = compiled[0]
    steps = together(name, step_times(model.profile(feed, runs=PROFILED_RUNS), roofline, footprint(model)))
    return Result(engines, math.nan if steps.bound is None else steps.bound, steps.seconds, steps.operations)


def table(results: dict[str, Result], peers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Medians, how many times faster ours is, the roofline, and the geometric means."""
    header = ["model", "ours", *peers, "best peer", *(f"x {peer}" for peer in peers), "x best"]
    header += ["roofline", "reached", "compile s"]
    rows = []
    for name, result in results.items():
        best = result.best_peer()
        rows.append(
            [
                name if name in COUNTED else f"({name})",
                number(result.median(OURS) * 1e3, 3),
                *(marked(result, peer) for peer in peers),
                "" if best is None else number(result.median(best) * 1e3, 3),
                *(number(result.times_faster(peer), 2) for peer in peers),
                number(result.times_faster_than_best(), 2),
                number(result.bound * 1e3, 3),
                "" if math.isnan(result.bound) else f"{result.bound / result.median(OURS) * 100:.0f} %",
                number(result.engines[OURS].load_seconds, 1),
            ]
        )
    means = means_of(results, peers)
    row = [f"geometric mean of {sum(name in COUNTED for name in results)}", *[""] * (2 + len(peers))]
    rows.append([*row, *(number(means[peer], 2) for peer in peers), number(means["best peer"], 2), "", "", ""])
    return header, rows


def marked(result: Result, engine: str) -> str:
    """An engine's median, or why it does not count."""
    measured = result.engines[engine]
    if measured.latency is None:
        return "fails"
    return number(measured.latency.median * 1e3, 3) + ("" if measured.counts else " wrong")


def means_of(results: dict[str, Result], peers: Sequence[str]) -> dict[str, float]:
    """Geometric means, over the counted models that both ran, of how many times faster ours is."""
    counted = [result for name, result in results.items() if name in COUNTED]
    means = {peer: geometric_mean(result.times_faster(peer) for result in counted) for peer in peers}
    return means | {"best peer": geometric_mean(result.times_faster_than_best() for result in counted)}


def described(roofline: Roofline) -> str:
    """The machine's limits, in words."""
    read = ", ".join(f"{size >> 10} KiB: {rate / 1e9:.0f}" for size, rate in roofline.bandwidths.items())
    return f"peak {roofline.peak / 1e9:.0f} GFLOP/s; GB/s that are read again and again from {read}"


def report(results: dict[str, Result], peers: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, as JSON values."""
    models = {
        name: {
            "engines": {engine: asdict(measured) for engine, measured in result.engines.items()},
            "counted": name in COUNTED,
            "best_peer": result.best_peer(),
            "times_faster_than_best_peer": known(result.times_faster_than_best()),
            "roofline_seconds": known(result.bound),
            "profiled_seconds": known(result.profiled),
            "operations": result.operations,
        }
        for name, result in results.items()
    }
    means = {peer: known(mean) for peer, mean in means_of(results, peers).items()}
    return {"models": models, "geometric_means_of_times_faster": means}


if __name__ == "__main__":
    main()
