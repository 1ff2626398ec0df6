"""What a model costs beside its latency: compile time, cold start, peak memory, size; beside other engines.

    python benchmarks/footprint.py [--models nudenet,minilm] [--target host] [--threads N] [--json FILE] [--markdown]

- Compile: `lepton compile` from start to end, with an empty cache of the user's, and again with what that left there.
- Cold start: a fresh process loads the model and computes one answer. The time is what these two take, after the engine
  is imported; engines take turns, and the fastest of several starts counts, with the files in the system's cache.
- Peak memory: the largest resident set of such a process, and of one that has imported numpy alone.
- Size: ours is one library; another engine's is the ONNX file and what pip installs of the engine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import corpus  # noqa: E402 (found through the line above)

from lepton_compile.cli.table import print_table  # noqa: E402
from lepton_compile.measuring.bench import OURS  # noqa: E402
from lepton_compile.measuring.machine import processor  # noqa: E402
from lepton_compile.measuring.peers import is_installed  # noqa: E402
from lepton_compile.measuring.tables import markdown  # noqa: E402

STARTS = 5
NOTHING = "numpy alone"
LOADER = ROOT / "lepton_compile" / "runtime" / "loader.py"

# A program of its own; its arguments are the model, an .npz of inputs, and the threads. Not getrusage: the peak that it
# tells is that of the process which started this one, if that was larger.
_PROGRAM = """\
import sys, time
import numpy as np
{imports}
model, threads = sys.argv[1], int(sys.argv[3])
inputs = dict(np.load(sys.argv[2]))
begin = time.perf_counter()
{start}
seconds = time.perf_counter() - begin
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024)
"""
_PROGRAMS = {
    NOTHING: ("", ""),
    OURS: (
        f"sys.path.insert(0, {str(LOADER.parent)!r})\nimport loader",
        "loader.load(model, threads=threads).run(inputs)",
    ),
    "onnxruntime": (
        "import onnxruntime",
        """\
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, inputs)""",
    ),
    "openvino": (
        "import openvino",
        """\
core = openvino.Core()
read = core.read_model(model)
read.reshape({name: list(array.shape) for name, array in inputs.items()})
settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
core.compile_model(read, "CPU", settings).create_infer_request().infer(inputs)""",
    ),
}


@dataclass
class Start:
    """Fresh processes that compute one answer each.

    Attributes:
        seconds: From loading to the answer, the fastest.
        process_seconds: From starting the process to its end, the fastest.
        peak_bytes: Largest resident set of a process, the smallest.
        size_bytes: What has to be deployed: the model and the engine.
        problem: Why there is nothing else.
    """

    seconds: float = float("inf")
    process_seconds: float = float("inf")
    peak_bytes: float = float("inf")
    size_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Footprint:
    """What was measured of one model.

    Attributes:
        cold_seconds: Compiling with an empty cache.
        warm_seconds: Compiling again.
        starts: Cold starts by engine.
    """

    cold_seconds: float
    warm_seconds: float
    starts: Mapping[str, Start]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default %(default)s)")
    parser.add_argument("--models", default=",".join(corpus.NAMES), help="which models, with commas (default all)")
    parser.add_argument("--target", default="host", help="what to compile for (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted(set(names) - set(corpus.NAMES)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(corpus.NAMES)}")
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")

    results = {}
    for name in names:
        print(name, file=sys.stderr)
        results[name] = measure(name, arguments.target, arguments.threads)
    for title, (header, rows) in tables(results).items():
        print(f"\n{title}\n")
        if arguments.markdown:
            print(markdown(header, rows))
        else:
            print_table(rows, header)
    for name, result in results.items():
        for engine, start in result.starts.items():
            if start.problem:
                print(f"{name}: {engine}: {start.problem}")
    if arguments.json:
        record = {"processor": processor(), "threads": arguments.threads, "target": arguments.target}
        record["models"] = {name: asdict(result) for name, result in results.items()}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(name: str, target: str, threads: int) -> Footprint:
    """Compile a model twice, then start every engine in turn."""
    model = corpus.model_path(name)
    feed = next(iter(corpus.real_feeds(name).values()))
    engines = [NOTHING, OURS, *(engine for engine in ("onnxruntime", "openvino") if is_installed(engine))]
    with tempfile.TemporaryDirectory() as scratch:
        folder, inputs = Path(scratch) / "model.lepton", Path(scratch) / "inputs.npz"
        cache = {"XDG_CACHE_HOME": str(Path(scratch) / "cache")}
        cold = compile_seconds(model, target, feed, folder, cache)
        warm = compile_seconds(model, target, feed, folder, cache)
        save(inputs, feed)
        starts = {engine: Start(size_bytes=size(engine, model, folder)) for engine in engines}
        for _ in range(STARTS):
            for engine, start in starts.items():
                begin(start, engine, folder if engine == OURS else model, inputs, threads)
    return Footprint(cold, warm, starts)


def compile_seconds(
    model: Path, target: str, feed: Mapping[str, np.ndarray], folder: Path, environment: Mapping[str, str]
) -> float:
    """Seconds of a process that compiles a model."""
    shapes = [
        word
        for tensor, array in feed.items()
        if array.shape
        for word in ("--shape", f"{tensor}={','.join(map(str, array.shape))}")
    ]
    program = "from lepton_compile.cli.main import main; main()"
    command = [sys.executable, "-c", program, "compile", model, "--target", target, "-o", folder, *shapes]
    started = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    return time.perf_counter() - started


def save(path: Path, feed: Mapping[str, np.ndarray]) -> None:
    """Write inputs under their names; numpy.savez takes them as keyword arguments, which may be any text."""
    np.savez(path, **feed)  # type: ignore[arg-type]


def begin(start: Start, engine: str, model: Path, inputs: Path, threads: int) -> None:
    """Run an engine's program once, and keep what is best."""
    imports, loading = _PROGRAMS[engine]
    program = _PROGRAM.format(imports=imports, start=loading)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, model, inputs, str(threads)], capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - started
    if done.returncode != 0:
        start.problem = f"fails: {(done.stderr.strip() or 'it gives no reason').splitlines()[-1][:200]}"
        return
    seconds, peak = map(float, done.stdout.split())
    start.seconds = min(start.seconds, seconds)
    start.process_seconds = min(start.process_seconds, wall)
    start.peak_bytes = min(start.peak_bytes, peak)


def size(engine: str, model: Path, folder: Path) -> int:
    """Bytes of what has to be deployed."""
    if engine == OURS:
        return next(folder.glob("lib*.so")).stat().st_size
    if engine == NOTHING:
        return 0
    files = importlib.metadata.files(engine) or []
    return model.stat().st_size + sum(file.size or 0 for file in files)


def tables(results: Mapping[str, Footprint]) -> dict[str, tuple[Sequence[str], list[Sequence[str]]]]:
    """Compile times; then a table for each quantity, with a column for each engine."""
    engines = list(dict.fromkeys(engine for result in results.values() for engine in result.starts))
    peers = [engine for engine in engines if engine != NOTHING]

    def rows(value: str, unit: float, columns: Sequence[str]) -> list[Sequence[str]]:
        return [
            (
                name,
                *("fails" if s.problem else f"{getattr(s, value) / unit:.1f}" for s in (r.starts[c] for c in columns)),
            )
            for name, r in results.items()
        ]

    return {
        "compile time in s": (
            ("model", "empty cache", "again"),
            [(name, f"{result.cold_seconds:.1f}", f"{result.warm_seconds:.1f}") for name, result in results.items()],
        ),
        "load to first answer in ms, the engine being imported": (("model", *peers), rows("seconds", 1e-3, peers)),
        "the whole process in ms": (("model", *engines), rows("process_seconds", 1e-3, engines)),
        "peak resident memory in MiB": (("model", *engines), rows("peak_bytes", 2**20, engines)),
        "size of model and engine in MiB": (("model", *peers), rows("size_bytes", 2**20, peers)),
    }


if __name__ == "__main__":
    main()
