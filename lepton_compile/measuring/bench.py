"""Measure a compiled model: its latency, that of other engines on the same ONNX file, and the time of every step."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lepton_compile.measuring.engines import Measurement, measure_engines
from lepton_compile.measuring.inputs import probe_values, random_values
from lepton_compile.measuring.machine import processor, processors
from lepton_compile.measuring.peers import Run, load_peer, require_peers
from lepton_compile.measuring.profile import StepTime, families, step_times
from lepton_compile.measuring.roofline import Roofline, footprint, measure_roofline
from lepton_compile.runtime.loader import CompiledModel, LeptonError, checked_threads, load

OURS = "lepton_compile"
PROFILED_RUNS = 30
NOT_KEPT = ", the nearest to limits that no variant keeps"


@dataclass(frozen=True)
class Benchmark:
    """What was measured of a compiled model.

    Attributes:
        name: The model's name.
        target: What it was compiled for.
        processor: The machine that it ran on.
        threads: Threads that every engine ran on.
        variant: Which of its variants was measured; "" where it has none.
        random_inputs: Names of the inputs that were random.
        engines: What each engine did, `OURS` among them.
        steps: The steps in the order in which they ran; empty without a profile.
        roofline: What the machine can do; None without a profile, or where the compiler is not installed.
        note: Why there is no roofline.
    """

    name: str
    target: str
    processor: str
    threads: int
    random_inputs: tuple[str, ...]
    engines: Mapping[str, Measurement]
    steps: tuple[StepTime, ...] = ()
    roofline: Roofline | None = None
    note: str = ""
    variant: str = ""

    @property
    def families(self) -> tuple[StepTime, ...]:
        """The steps of each kernel family together, the longest first."""
        return families(self.steps)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        value = asdict(self)
        for kind in ("steps", "families"):
            value[kind] = [
                asdict(step) | {"share_of_peak": step.share_of_peak, "share_of_roofline": step.share_of_roofline}
                for step in getattr(self, kind)
            ]
        return value


def bench(
    folder: str | os.PathLike[str],
    *,
    threads: int | None = None,
    latency_s: float | None = None,
    memory_bytes: int | None = None,
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    against: Sequence[str] = (),
    model: str | os.PathLike[str] | None = None,
    seconds: float = 3.0,
    profile: bool = False,
) -> Benchmark:
    """Measure a compiled model on this machine.

    Args:
        folder: What `CompiledModel.save` or `lepton compile` wrote.
        threads: Threads that every engine runs on; None, or more than there are processors: one on each of those.
        latency_s: What a run may take, for the choice among variants of the model: see `CompiledModel.adapt`.
        memory_bytes: What an instance may take, for the same.
        inputs: Arrays for some of the inputs; the others are random.
        against: Other engines to measure in turn with it, of `lepton_compile.measuring.peers.PEERS`.
        model: The ONNX file that it was compiled from, which the other engines run.
        seconds: How long to measure latencies; every engine gets a few rounds at least.
        profile: Whether to time every step, and to measure what the machine can do at best.

    Returns:
        What was measured.

    Raises:
        LeptonError: An engine is unknown or not installed, `model` is missing or another one than the folder was
            compiled from, or `seconds` is negative.
        ShapeError: An input does not fit.
        TargetError: The folder is for another machine.
    """
    if not 0 <= seconds < float("inf"):
        raise LeptonError(f"seconds is {seconds:g}; it must be a number of at least 0", seconds=seconds)
    require_peers(against)
    count = min(checked_threads(threads) or processors(), processors())
    compiled = load(folder, threads=count)
    limited = latency_s is not None or memory_bytes is not None
    kept = not limited or compiled.adapt(latency_s=latency_s, memory_bytes=memory_bytes)
    path = None if model is None else Path(model)
    if path is not None:
        _require_same_model(compiled, path)
    elif against:
        raise LeptonError(
            f"{', '.join(against)} can only run the ONNX file that {compiled.folder} was compiled from: "
            "say which it is (--model)"
        )
    given = dict(inputs or {})
    missing = [tensor for tensor in compiled.inputs if tensor.name not in given]
    if missing:
        made = random_values(compiled.inputs) if path is None else probe_values(path, compiled.inputs)
        given |= {tensor.name: made[tensor.name] for tensor in missing}
    feed = compiled.prepare(given).inputs
    compiled.run(feed)  # what it refuses is the caller's mistake, not a figure

    loaders: dict[str, Callable[[], Run]] = {OURS: lambda: compiled.run}
    for engine in against:
        loaders[engine] = lambda engine=engine: load_peer(engine, Path(str(model)), feed, count)  # type: ignore[misc]
    loaders = {name: loaders[name] for name in sorted(loaders, key=lambda name: name != "onnxruntime")}
    result = Benchmark(
        name=compiled.name,
        target=str(compiled.manifest["target"].get("name", "")),
        processor=processor(),
        threads=count,
        random_inputs=tuple(tensor.name for tensor in missing),
        engines=measure_engines(loaders, feed, seconds),
        variant="" if compiled.variant is None else compiled.variant.name + ("" if kept else NOT_KEPT),
    )
    return _profiled(result, compiled, feed) if profile else result


def _profiled(result: Benchmark, compiled: CompiledModel, feed: Mapping[str, npt.NDArray[Any]]) -> Benchmark:
    """The same with the time of every step."""
    roofline, note = None, ""
    if importlib.util.find_spec("tvm") is None:
        note = "the machine's peak is not known: measuring it takes the compiler, and TVM is not installed"
    else:
        from lepton_compile.target import resolve_target

        roofline = measure_roofline(resolve_target(compiled.manifest["target"]), result.threads)
    steps = step_times(compiled.profile(feed, runs=PROFILED_RUNS), roofline, footprint(compiled))
    return replace(result, steps=steps, roofline=roofline, note=note)


def _require_same_model(compiled: CompiledModel, model: Path) -> None:
    try:
        with model.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise LeptonError(f"{model} can not be read: {error.strerror}", path=model) from error
    expected = compiled.manifest["model"]["sha256"]
    if digest != expected:
        raise LeptonError(
            f"{model} is not the model that {compiled.folder} was compiled from: its SHA-256 is {digest[:12]}..., not "
            f"{expected[:12]}...",
            path=model,
        )
