"""compile(model, target): the table of contents of the compiler."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from lepton_compile.codegen import Library, generate, workers
from lepton_compile.codegen.names import identifier
from lepton_compile.errors import BudgetError, CalibrationError
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import Metric, metric_of
from lepton_compile.evaluation.samples import Data
from lepton_compile.lowering import lower, oversize
from lepton_compile.model import Graph, import_model
from lepton_compile.planning import Plan, adapt, explore
from lepton_compile.rewriting import Context, Pass
from lepton_compile.runtime.loader import CompiledModel, checked_threads
from lepton_compile.target import Budget, Target, resolve_target, with_budget, with_latency
from lepton_compile.tuning import MODEL, PlanCache, Workbench, how_to_tune, plan_cache, tuned

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Progress = Callable[[str, int, int], None]


def compile(
    model: Source,
    target: str | os.PathLike[str] | Mapping[str, object] | Target = "host",
    *,
    name: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: Data | None = None,
    metric: str | Mapping[str, str] | Metric | None = None,
    key: str | None = None,
    passes: Sequence[str | Pass] | None = None,
    plan: Plan | None = None,
    threads: int | None = None,
    budget: Budget | None = None,
    search: float | None = None,
    tuning: str | os.PathLike[str] | None = None,
    exact_order: bool = False,
    verify: bool = False,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile an ONNX model to a native library.

    Args:
        model: A path, the bytes of a model, or a model.
        target: The machine to compile for: a name that `lepton targets` lists ("host" is this machine), a target file,
            its content as a mapping, or a `Target`.
        name: Prefix of the library's symbols and name of its files; by default that of the model's file or graph.
        shapes: Sizes of the inputs that have dynamic dimensions.
        calibration: Samples of real inputs, which let approximate passes (quantization) take part: two thirds of them
            calibrate, and the others judge what is lost. Arrays, an .npz file, a folder of .npy or .npz files, an
            iterable, or a callable; see `lepton_compile.evaluation.samples`. They never leave the process.
        metric: What may not drop by more than `budget.max_drop`: "top1", "cosine", "relative_error", one of these for
            each output by name, or a function of answers and what is expected; see `lepton_compile.evaluation.metrics`.
            None: "cosine".
        key: A name of yours for calibration data, a metric or passes that have no fingerprint: iterators, callables,
            instances. What is decided under a contract is kept in the user's cache, as statistics alone, and compiling
            the same again takes it from there; without a fingerprint or a key it is decided each time.
        passes: The passes that may take part; None: all.
        plan: Replay what an earlier compilation decided, for the same model; calibration data is not read then.
        threads: Threads that `run` uses by default; None: one per processor that the process may use.
        budget: What the library may cost, instead of the target's budget: its size, the memory of a run, and the time
            of a run. Kernels that buy speed with larger weights are left out where they would exceed it, and weights
            that the model has in integers stay integers. And how much of the metric it may lose, instead of what the
            target's policy says.
        search: Seconds in which plans that passes would not take by their rules are tried as well, and measured: of all
            that hold the contract, the one is taken that keeps the budget and costs least of the metric, or else the
            fastest. What was tried is kept in the user's cache: a search that was stopped goes on there. Needs
            calibration data, and the extra "search".
        tuning: Which of several algorithms a kernel takes: "measure" on this machine, once, and remember it; "model":
            by a model of costs; or a tuning file, such as the tuning.json in the folder of a compiled model. None: what
            the environment variable LEPTON_TUNING says, else "measure" for the target "host", and "model" for others.
        exact_order: Only sums of products of the model's own numbers: no minimal filtering (Winograd), whose rounding
            errors are larger and which spreads NaN and infinities over neighbouring outputs.
        verify: Compare with onnxruntime after every pass.
        dump: A folder that gets the graph after every pass.
        progress: Called with a stage and how much of how much of it is done.

    Returns:
        The compiled model, in a temporary folder until it is saved.

    Raises:
        ModelError, ShapeError: The model cannot be read, or its shapes are not known.
        UnsupportedOperatorError: It uses operators that cannot be compiled.
        BudgetError: It takes more memory than the target has, or than its budget allows.
        CalibrationError: The calibration data, or the metric, cannot be used.
        LeptonError: Optuna is not installed, or where searches are kept cannot be used.
        TargetError: There is no such target.
        PassError: A pass broke the model.
        BudgetError: The library, or a run of it, takes more than the budget; a run's time as it is measured on this
            machine, or predicted for another.
        BuildError: A kernel or the library could not be built; names the ONNX nodes.
    """
    report = progress or (lambda stage, done, total: None)

    def line(text: str) -> None:
        report(text, 0, 1)

    target = with_budget(resolve_target(target), budget)
    checked_threads(threads)
    workers()  # so that their import of TVM overlaps with what comes before the kernels
    report("importing the model", 0, 1)
    graph = import_model(model, shapes)
    symbol = identifier(name or _name(model, graph))
    workbench = Workbench(target, symbol, passes=passes, tuning=tuning, exact_order=exact_order, progress=line)
    contract, decided, searches = None, PlanCache(), None
    if calibration is not None:
        contract = Contract(calibration, *metric_of(metric), target.policy.max_drop)
    elif metric is not None or key is not None or search is not None:
        raise CalibrationError("a metric judges samples, a key names them, a search needs them: give calibration data")
    if calibration is not None and plan is None:
        cache_of = functools.partial(
            plan_cache,
            graph,
            data=calibration,
            metric=metric,
            key=key,
            passes=passes,
            tuning=how_to_tune(target, tuning),
            exact_order=exact_order,
        )
        decided = cache_of(target, search=search)
        # What was tried for one budget of latency serves others.
        searches = cache_of(with_latency(target, None)).search_folder
    context = Context(contract, workbench.seconds, workbench.size, workbench.memory)
    if known := decided.recall():
        line("taking the plan from the cache: the same was asked before")
        plan, workbench.times = known
    elif search is not None and plan is None:
        plan = explore(graph, target, context, search, passes=passes, folder=searches, progress=line)
    graph, plan = adapt(
        graph,
        target,
        context=context,
        passes=passes,
        plan=plan,
        verify=verify,
        dump=dump,
        progress=line,
    )
    if known is None:
        decided.keep(plan, workbench.times)
    if target.budget.latency_s is not None:
        _require_fast(math.fsum(workbench.seconds(graph).values()), target.budget.latency_s, plan)
    report("choosing kernels", 0, 1)
    record, digest = json.loads(plan.to_json()), _hash(model)

    def build(small: bool, algorithms: str | os.PathLike[str] | None = tuning) -> Library:
        program, taken = tuned(
            lambda table: lower(graph, target, symbol, tuning=table.taken, exact_order=exact_order, small=small),
            target,
            algorithms,
            line,
        )
        return generate(
            program,
            target,
            model_hash=digest,
            plan=record,
            tuning=taken.merged(workbench.times).to_record(),
            progress=line,
        )

    try:
        library = build(small=False)
        if oversize(library.path.stat().st_size, target.budget):
            library = build(small=True)
        if oversize(library.path.stat().st_size, target.budget):
            # As sizes were planned; code of algorithms that are measured to be faster may be larger.
            library = build(small=True, algorithms=MODEL)
        if problem := oversize(library.path.stat().st_size, target.budget):
            raise BudgetError(problem)
    except BudgetError as error:
        raise BudgetError("; ".join(filter(None, (str(error), plan.why_not("quantization"))))) from error
    return CompiledModel(library.folder, threads=threads, keep=library)


def _require_fast(seconds: float, budget: float, plan: Plan) -> None:
    """Refuse a model that takes longer than its budget."""
    if seconds > budget:
        problem = f"a run takes {seconds * 1e3:.3f} ms, and the budget for latency is {budget * 1e3:.3f}"
        raise BudgetError("; ".join(filter(None, (problem, plan.why_not("channel_pruning")))))


def _name(model: Source, graph: Graph) -> str:
    return Path(model).stem if isinstance(model, str | os.PathLike) else graph.name or "model"


def _hash(model: Source) -> str:
    """SHA-256 of the model as it was given."""
    if isinstance(model, str | os.PathLike):
        with Path(model).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()
