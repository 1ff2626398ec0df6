"""Models quantized under an accuracy contract beside other engines at every precision that they have.

    python benchmarks/quantized.py [--threads 1,2] [--models nudenet,minilm] [--json FILE] [--seconds S]
    python benchmarks/quantized.py --size 0.3

The engines take turns on one model after another (`lepton_compile/measuring/turns.py`); what is printed is the median.
Each answers real samples that none of them was calibrated on, and is judged by the rules of
`tests/corpus/agreement.py`. One that misses them is shown with what it missed by, and neither sets the bar nor counts:
the ratio is that of the fastest peer that keeps the original's answers, at any precision, to ours. Ours is judged by
the same rules.

Int8 models of the peers are made by their own quantizers from the samples that ours is calibrated on, and kept in the
folder of the fetched models. For silero the peers get the file of the same net, with the same answers, that is shipped
without a branch: OpenVINO and onnxruntime's quantizer do not load the other.

--size compiles under a budget of this share of the size of the library in float32, and tells what became of it.

`pip install -e '.[test,bench]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import corpus  # noqa: E402 (found through the line above)
from corpus import agreement  # noqa: E402
from corpus.agreement import Agreement  # noqa: E402
from corpus.samples import MODELS, calibration_feeds, held_out_feeds  # noqa: E402
from pretrained import cache_folder  # noqa: E402

import lepton_compile  # noqa: E402
from lepton_compile.measuring import quantizers  # noqa: E402
from lepton_compile.measuring.machine import describe_machine, processors  # noqa: E402
from lepton_compile.measuring.peers import FLOAT32, Run, is_installed, load_peer  # noqa: E402
from lepton_compile.measuring.tables import geometric_mean, known, markdown, number  # noqa: E402
from lepton_compile.measuring.turns import Latency, take_turns  # noqa: E402

OURS, OURS_FLOAT32 = "ours", "ours float32"


@dataclass(frozen=True)
class Peer:
    """Another engine at a precision.

    Attributes:
        engine: As `lepton_compile.measuring.peers` calls it.
        precision: What it computes in where the model says float32.
        quantizer: What makes the model, of `quantizers.QUANTIZERS`; "": it is the original.
    """

    engine: str
    precision: str = FLOAT32
    quantizer: str = ""


PEERS = {
    "onnxruntime float32": Peer("onnxruntime"),
    "onnxruntime int8": Peer("onnxruntime", quantizer="onnxruntime"),
    "onnxruntime int8 products": Peer("onnxruntime", quantizer="onnxruntime products"),
    "onnxruntime int8 dynamic": Peer("onnxruntime", quantizer="onnxruntime dynamic"),
    "OpenVINO float32": Peer("openvino"),
    "OpenVINO bfloat16": Peer("openvino", "bfloat16"),
    "OpenVINO int8": Peer("openvino", quantizer="openvino"),
    "OpenVINO int8 and bfloat16": Peer("openvino", "bfloat16", "openvino"),
}
_BRANCHLESS = {"silero": "silero-openvino-16k"}


@dataclass
class Engine:
    """What one engine did with one model.

    Attributes:
        agreement: With the original; None where it did not answer.
        latencies: By the number of threads.
        problem: Why it fails.
    """

    agreement: Agreement | None = None
    latencies: dict[int, Latency] = field(default_factory=dict)
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether it keeps the original's answers."""
        return self.agreement is not None and self.agreement.holds

    def median(self, threads: int) -> float:
        """Median milliseconds; NaN where there are none."""
        return self.latencies[threads].median * 1e3 if threads in self.latencies else math.nan


@dataclass(frozen=True)
class Compiled:
    """What compiling gave.

    Attributes:
        seconds: For calibrating and compiling.
        size: Bytes of the library, weights included.
        plan: What the pass that quantizes answered, as the plan has it.
    """

    seconds: float
    size: int
    plan: Mapping[str, Any]

    @property
    def layers(self) -> Mapping[str, int]:
        """How many layers compute in each precision."""
        return Counter(layer["precision"] for layer in self.plan.get("findings", {}).get("layers", ()))


@dataclass
class Result:
    """What was measured of one model."""

    engines: dict[str, Engine]
    compiled: dict[str, Compiled] = field(default_factory=dict)

    def best_peer(self, threads: int) -> str | None:
        """The fastest of the others that keeps the original's answers."""
        peers = (name for name in PEERS if name in self.engines and self.engines[name].holds)
        timed = (name for name in peers if threads in self.engines[name].latencies)
        return min(timed, key=lambda name: self.engines[name].median(threads), default=None)

    def times_faster(self, threads: int) -> float:
        """How many times faster ours is than that one; NaN where one of them is missing."""
        best = self.best_peer(threads)
        if best is None or OURS not in self.engines:
            return math.nan
        return self.engines[best].median(threads) / self.engines[OURS].median(threads)

    def size_ratio(self) -> float:
        """The library's size as a share of that in float32."""
        if not {OURS, OURS_FLOAT32} <= self.compiled.keys():
            return math.nan
        return self.compiled[OURS].size / self.compiled[OURS_FLOAT32].size


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas (default %(default)s)")
    parser.add_argument("--models", default=",".join(MODELS), help="which models, with commas (default all)")
    parser.add_argument("--samples", type=int, default=100, help="how many calibrate (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="to measure a model for (default %(default)s)")
    parser.add_argument(
        "--size", type=float, metavar="SHARE", help="a budget of this share of float32's size; no peers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    counts = [int(count) for count in arguments.threads.split(",") if count.isdecimal()]
    if not counts or not all(1 <= count <= processors() for count in counts):
        parser.error(f"--threads must be numbers from 1 to {processors()}, the processors that may be used")

    console = Console(stderr=True)
    results: dict[str, Result] = {}
    for name in names:
        with console.status(name):
            results[name] = measure(name, counts, arguments.samples, arguments.seconds, arguments.size)
        if arguments.json:  # after each model, so that nothing is lost
            record = {"machine": describe_machine(), "samples": arguments.samples, "size": arguments.size}
            arguments.json.write_text(json.dumps(record | report(results, counts), indent=1) + "\n")
    for count in counts:
        print(f"\nMedian ms, {count} thread{'s' if count > 1 else ''}; (so) of an engine that misses the agreement\n")
        print(markdown(*latencies(results, count)))
    print("\nAgreement with the original on samples held out\n")
    print(markdown(*agreements(results)))
    print("\nOurs\n")
    print(markdown(*builds(results)))
    for name, result in results.items():
        for engine, measured in result.engines.items():
            if measured.problem:
                print(f"\n{name}: {engine}: {measured.problem}")
        for engine, compiled in result.compiled.items():
            if engine == OURS and compiled.plan:
                print(f"\n{name}: {compiled.plan['reason']}")


def measure(name: str, counts: Sequence[int], samples: int, seconds: float, size: float | None) -> Result:
    """Make every engine ready, judge its answers, and time them in turns."""
    result = Result({})
    feed = held_out_feeds(name)[0]
    original = load_peer("onnxruntime", corpus.model_path(name), feed, 1)
    originals = agreement.answers_of(name, original, inputs=agreement.INPUTS.get(name, ()))
    loaders = compile_ours(name, samples, size, original, result)
    if size is None:
        loaders |= peers(name, samples, result)
    for count in counts:
        runs: dict[str, Run] = {}
        for engine, load in loaders.items():
            measured = result.engines.setdefault(engine, Engine())
            try:
                runs[engine] = load(count)
                if measured.agreement is None:
                    measured.agreement = agreement.RULES[name](agreement.answers_of(name, runs[engine]), originals)
            except Exception as error:  # an engine that cannot run a model is a result, too
                runs.pop(engine, None)
                measured.problem = in_one_line(error)
        turns = take_turns({engine: lambda run=run: run(feed) for engine, run in runs.items()}, seconds)  # type: ignore[misc]
        for engine, latency in turns.items():
            result.engines[engine].latencies[count] = latency
    return result


Loader = Callable[[int], Run]


def compile_ours(name: str, samples: int, size: float | None, original: Run, result: Result) -> dict[str, Loader]:
    """Compile in float32 and under the contract; what fails is noted."""
    path, shapes = corpus.model_path(name), corpus.shapes(name)
    loaders: dict[str, Loader] = {}

    def build(engine: str, **contract: Any) -> None:
        begin = time.perf_counter()
        try:
            model = lepton_compile.compile(path, "host", shapes=shapes, threads=1, **contract)
        except Exception as error:
            result.engines[engine] = Engine(problem=in_one_line(error))
            return
        spent = time.perf_counter() - begin
        result.compiled[engine] = Compiled(spent, model.manifest["library"]["bytes"], answer_of_quantization(model))
        # A function that holds the model, whose folder goes with it.
        loaders[engine] = lambda threads: lambda feed: model.run(feed, threads=threads)

    build(OURS_FLOAT32)
    largest = None
    if size is not None and OURS_FLOAT32 in result.compiled:
        largest = int(size * result.compiled[OURS_FLOAT32].size)
    build(
        OURS,
        calibration=agreement.labelled(name, calibration_feeds(name, samples), original),
        metric=agreement.metric(name),
        budget=lepton_compile.Budget(max_drop=agreement.MAX_DROP, size_bytes=largest),
    )
    return loaders


def answer_of_quantization(model: lepton_compile.CompiledModel) -> Mapping[str, Any]:
    """What the pass said: what it did, or else why it did nothing."""
    plan = model.plan or {}
    answers = (answer for kind in ("steps", "declined") for answer in plan.get(kind, ()))
    found = next((answer for answer in answers if answer["pass"] == "quantization"), {})
    return {part: found[part] for part in ("reason", "refusals", "findings") if part in found}


def peers(name: str, samples: int, result: Result) -> dict[str, Loader]:
    """What loads each peer; what cannot be quantized is noted."""
    source = corpus.model_path(_BRANCHLESS.get(name, name))
    inputs = corpus.shapes(_BRANCHLESS.get(name, name))
    feed = {tensor: value for tensor, value in held_out_feeds(name)[0].items() if tensor in inputs}
    loaders: dict[str, Loader] = {}

    def loader(peer: Peer, model: Path) -> Loader:
        def load(threads: int) -> Run:
            run = load_peer(peer.engine, model, feed, threads, peer.precision)
            return lambda values: run({tensor: values[tensor] for tensor in feed})

        return load

    for engine, peer in PEERS.items():
        try:
            if not is_installed(peer.engine):
                raise ModuleNotFoundError(f"{peer.engine} is not installed")
            loaders[engine] = loader(
                peer, quantized(name, source, samples, peer.quantizer) if peer.quantizer else source
            )
        except Exception as error:
            result.engines[engine] = Engine(problem=in_one_line(error))
    return loaders


def quantized(name: str, source: Path, samples: int, quantizer: str) -> Path:
    """A peer's int8 model, made in a process of its own if it is not there yet."""
    code = [Path(str(module.__file__)) for module in (quantizers, sys.modules["corpus.samples"])]
    versions = [_version(package) for package in ("onnxruntime", "openvino", "nncf", "onnx")]
    parts = [path.read_bytes() for path in (source, *code)]
    digest = hashlib.sha256(b"".join(parts) + repr((versions, samples)).encode()).hexdigest()[:12]
    folder = cache_folder() / "quantized" / f"{name}-{quantizer.replace(' ', '-')}-{digest}"
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            made = pool.submit(_quantize, name, source, samples, quantizer, partial).result()
        for file in partial.iterdir():
            if file.stem != made.stem:
                file.unlink()
        partial.rename(folder)
    return next(path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))


def _version(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _quantize(name: str, source: Path, samples: int, quantizer: str, folder: Path) -> Path:
    """What `quantized` has a process of its own do, which may talk, and die of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    inputs = corpus.shapes(_BRANCHLESS.get(name, name))
    feeds = [{tensor: feed[tensor] for tensor in inputs} for feed in calibration_feeds(name, samples)]
    try:
        return quantizers.QUANTIZERS[quantizer](source, feeds, folder)
    except Exception as error:
        raise RuntimeError(in_one_line(error)) from None  # not all exceptions survive being handed over


def in_one_line(error: BaseException) -> str:
    """What is wrong, short."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def latencies(results: Mapping[str, Result], threads: int) -> tuple[list[str], list[list[str]]]:
    """Medians, and how many times faster ours is than the best peer that counts."""
    header = ["model", *PEERS, OURS_FLOAT32, OURS, "best peer", "x best"]
    rows = []
    for name, result in results.items():
        cells = []
        for engine in (*PEERS, OURS_FLOAT32, OURS):
            measured = result.engines.get(engine, Engine())
            median = number(measured.median(threads), 3)
            cells.append("fails" if measured.problem else median if measured.holds or not median else f"({median})")
        ratio = number(result.times_faster(threads), 2)
        counts = result.engines[OURS].holds
        rows.append([name, *cells, result.best_peer(threads) or "", ratio if counts or not ratio else f"({ratio})"])
    counted = [result for result in results.values() if result.engines[OURS].holds]
    mean = number(geometric_mean(result.times_faster(threads) for result in counted), 2)
    rows.append([f"geometric mean of {len(counted)}", *[""] * (len(header) - 2), mean])
    return header, rows


def agreements(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """What each engine's answers have of the original's, with a word where that is too little."""
    header = ["model", *PEERS, OURS_FLOAT32, OURS]
    rows = []
    for name, result in results.items():
        cells = []
        for engine in header[1:]:
            judged = result.engines.get(engine, Engine()).agreement
            cells.append("" if judged is None else judged.figure + ("" if judged.holds else " MISSES"))
        rows.append([name, *cells])
    return header, rows


def builds(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Sizes, times and layers."""
    header = ["model", "float32 MB", "ours MB", "ratio", "float32 compile s", "calibrate and compile s", "layers"]
    rows = []
    for name, result in results.items():
        plain, ours = (result.compiled.get(engine) for engine in (OURS_FLOAT32, OURS))
        sizes = [number(math.nan if made is None else made.size / 1e6, 2) for made in (plain, ours)]
        spent = [number(math.nan if made is None else made.seconds, 1) for made in (plain, ours)]
        layers = "" if ours is None else ", ".join(f"{count} {kind}" for kind, count in sorted(ours.layers.items()))
        rows.append([name, *sizes, number(result.size_ratio(), 2), *spent, layers])
    return header, rows


def report(results: Mapping[str, Result], counts: Sequence[int]) -> dict[str, Any]:
    """Everything that was measured, as JSON values."""
    models = {
        name: {
            "engines": {
                engine: asdict(measured) | {"holds": measured.holds} for engine, measured in result.engines.items()
            },
            "ours": {engine: asdict(compiled) for engine, compiled in result.compiled.items()},
            "size_ratio": known(result.size_ratio()),
            "best_peer": {count: result.best_peer(count) for count in counts},
            "times_faster_than_best_peer": {count: known(result.times_faster(count)) for count in counts},
        }
        for name, result in results.items()
    }
    return {"models": models}


if __name__ == "__main__":
    main()
