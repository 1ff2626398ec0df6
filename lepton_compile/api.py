"""compile(model, target): the table of contents of the compiler."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from lepton_compile.codegen import workers
from lepton_compile.codegen.names import identifier
from lepton_compile.compilation import Compilation
from lepton_compile.errors import BudgetError, CalibrationError, LeptonError
from lepton_compile.evaluation.metrics import Metric
from lepton_compile.evaluation.samples import Data
from lepton_compile.model import Graph, import_model
from lepton_compile.planning import Plan
from lepton_compile.planning.family import largest_first
from lepton_compile.rewriting import Pass
from lepton_compile.runtime.loader import CompiledModel, checked_threads
from lepton_compile.target import Budget, Target, resolve_target, with_budget

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Progress = Callable[[str, int, int], None]

MOST_VARIANTS = 16
"""What one library holds."""


def compile(
    model: Source | Sequence[Source],
    target: str | os.PathLike[str] | Mapping[str, object] | Target = "host",
    *,
    name: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: Data | None = None,
    metric: str | Mapping[str, str] | Metric | None = None,
    key: str | None = None,
    passes: Sequence[str | Pass] | None = None,
    plan: Plan | Sequence[Plan] | None = None,
    threads: int | None = None,
    budget: Budget | None = None,
    search: float | None = None,
    variants: int = 1,
    tuning: str | os.PathLike[str] | None = None,
    exact_order: bool = False,
    verify: bool = False,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile an ONNX model to a native library.

    Args:
        model: A path, the bytes of a model, or a model. Of several, a family of one interface in several sizes, the
            largest is taken that keeps the budget: as it is where it can, or else adapted as far as needed. It gives
            the library its name, unless `name` does.
        target: The machine to compile for: a name that `lepton targets` lists ("host" is this machine), a target file,
            its content as a mapping, or a `Target`.
        name: Prefix of the library's symbols and name of its files; by default that of the model's file or graph.
        shapes: Sizes of the inputs that have dynamic dimensions.
        calibration: Samples of real inputs, which let approximate passes (channel pruning, quantization) take part:
            two thirds of them calibrate, and the others judge what is lost. Arrays, an .npz file, a folder of .npy or
            .npz files, an iterable, or a callable; see `lepton_compile.evaluation.samples`. They never leave the
            process.
        metric: What may not drop by more than `budget.max_drop`: "top1", "cosine", "relative_error", "channel_error",
            one of these for each output by name, or a function of answers and what is expected; see
            `lepton_compile.evaluation.metrics`. None: "cosine".
        key: A name of yours for calibration data, a metric or passes that have no fingerprint: iterators, callables,
            instances. What is decided under a contract is kept in the user's cache, as statistics alone, and compiling
            the same again takes it from there; without a fingerprint or a key it is decided each time.
        passes: The passes that may take part; None: all.
        plan: Replay what an earlier compilation decided, for the same model, or for each of its variants in their
            order; calibration data is not read then.
        threads: Threads that `run` uses by default; None: one per processor that the process may use.
        budget: What the library may cost, instead of the target's budget: its size, the memory of a run, and the time
            of a run. Kernels that buy speed with larger weights are left out where they would exceed it, and weights
            that the model has in integers stay integers. And how much of the metric it may lose, instead of what the
            target's policy says.
        search: Seconds in which plans that passes would not take by their rules are tried as well, and measured: of all
            that hold the contract, the one is taken that keeps the budget and costs least of the metric, or else the
            fastest. What was tried is kept in the user's cache: a search that was stopped goes on there. Needs
            calibration data, and the extra "search".
        variants: How many variants of the model the library holds at most, from which it picks one where it runs, by
            the processor, the memory that is free, and the limits that `CompiledModel.adapt` sets. Under a contract
            they differ in widths and precisions: the first is the model as it is, or as the budget for latency asks
            for, each of the others faster. Without one they differ in instruction sets: the target's and those below.
        tuning: Which of several algorithms a kernel takes: "measure" on this machine, once, and remember it; "model":
            by a model of costs; or a tuning file, such as the tuning.json in the folder of a compiled model. None: what
            the environment variable LEPTON_TUNING says, else "measure" for the target "host", and "model" for others.
        exact_order: Only sums of products of the model's own numbers: no minimal filtering (Winograd), whose rounding
            errors are larger, and no pixels that share a vector. Both spread NaN and infinities over neighbouring
            outputs.
        verify: Compare with onnxruntime after every pass.
        dump: A folder that gets the graph after every pass.
        progress: Called with a stage and how much of how much of it is done.

    Returns:
        The compiled model, in a temporary folder until it is saved.

    Raises:
        ModelError, ShapeError: The model cannot be read, or its shapes are not known; or those of a family have
            different inputs or outputs.
        UnsupportedOperatorError: It uses operators that cannot be compiled.
        CalibrationError: The calibration data, or the metric, cannot be used.
        LeptonError: Optuna is not installed.
        TargetError: There is no such target.
        PassError: A pass broke the model.
        BudgetError: The library, or a run of it, takes more than the budget, or more memory than the target has; a
            run's time as it is measured on this machine, or predicted for another.
        BuildError: A kernel or the library could not be built; names the ONNX nodes.
    """
    report = progress or (lambda stage, done, total: None)
    target = with_budget(resolve_target(target), budget)
    checked_threads(threads)
    if calibration is None and not (metric is None and key is None and search is None):
        raise CalibrationError("a metric judges samples, a key names them, a search needs them: give calibration data")
    if not isinstance(variants, int) or isinstance(variants, bool) or not 1 <= variants <= MOST_VARIANTS:
        raise LeptonError(f"variants is {variants!r}; it must be a whole number from 1 to {MOST_VARIANTS}")
    if search is not None and not (isinstance(search, int | float) and 0 < search < math.inf):
        raise LeptonError(f"search is {search!r}; it must be a number of seconds above 0")
    if plan is not None and not isinstance(plan, Plan) and not plan:
        raise LeptonError("plan has no plans; give one for each variant, or None to decide")
    workers()  # so that their import of TVM overlaps with what comes before the kernels
    several = isinstance(model, list | tuple)
    asked = Compilation(
        target,
        # A family reads the samples again for each of its members.
        calibration=list(calibration) if several and isinstance(calibration, Iterator) else calibration,
        metric=metric,
        key=key,
        passes=passes,
        plans=() if plan is None else (plan,) if isinstance(plan, Plan) else plan,
        search=search,
        variants=variants,
        tuning=tuning,
        exact_order=exact_order,
        verify=verify,
        dump=dump,
        line=lambda text: report(text, 0, 1),
    )
    report("importing the model", 0, 1)
    models: Sequence[Source] = model if several else [model]  # type: ignore[assignment,list-item]
    graphs = [import_model(each, shapes) for each in models]
    names = [_name(each, graph) for each, graph in zip(models, graphs, strict=True)]
    passed_over: list[dict[str, object]] = []
    for place in largest_first(graphs, names):
        try:
            library = asked.library(graphs[place], identifier(name or names[place]), _hash(models[place]), passed_over)
        except BudgetError as error:
            if len(models) == 1:
                raise
            passed_over.append({"model": names[place], "why": str(error)})
        else:
            return CompiledModel(library.folder, threads=threads, keep=library)
    reasons = "; ".join(f"{each['model']}: {each['why']}" for each in passed_over)
    raise BudgetError(f"no model of the family fits: {reasons}")


def _name(model: Source, graph: Graph) -> str:
    return Path(model).stem if isinstance(model, str | os.PathLike) else graph.name or "model"


def _hash(model: Source) -> str:
    """SHA-256 of the model as it was given."""
    if isinstance(model, str | os.PathLike):
        with Path(model).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()
