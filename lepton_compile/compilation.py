"""One compilation: what was asked, and how a graph becomes a library by it."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lepton_compile.codegen import Library, Variant, generate_variants
from lepton_compile.errors import BudgetError
from lepton_compile.evaluation.contract import KEPT_BYTES, Contract
from lepton_compile.evaluation.metrics import Metric, metric_of
from lepton_compile.evaluation.samples import Data
from lepton_compile.lowering import Program, lower, oversize
from lepton_compile.model import Graph
from lepton_compile.planning import Plan, adapt, explore
from lepton_compile.planning.adapt import choose_passes
from lepton_compile.planning.points import point_of, records
from lepton_compile.planning.variants import FULL, Decided, faster, in_order, instruction_sets, spread
from lepton_compile.pruning.optimizer import held_bytes, this_machine
from lepton_compile.reporting.quantities import format_seconds
from lepton_compile.rewriting import Context, Pass
from lepton_compile.rewriting.limits import fit, limits
from lepton_compile.target import Target, with_latency
from lepton_compile.tuning import (
    MODEL,
    PlanCache,
    TuningTable,
    Workbench,
    how_to_tune,
    plan_cache,
    predicted_seconds,
    tuned,
)

Tuning = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Compilation:
    """What was asked; the fields are the arguments of `lepton_compile.compile`.

    Attributes:
        line: Called with one line at each step.
    """

    target: Target
    calibration: Data | None
    metric: str | Mapping[str, str] | Metric | None
    key: str | None
    passes: Sequence[str | Pass] | None
    plans: Sequence[Plan]
    search: float | None
    variants: int
    tuning: Tuning
    exact_order: bool
    verify: bool
    dump: str | os.PathLike[str] | None
    line: Callable[[str], None]

    def library(self, graph: Graph, symbol: str, model_hash: str, family: Sequence[Mapping[str, object]]) -> Library:
        """Compile a graph.

        Args:
            graph: The imported graph.
            symbol: Prefix of the library's symbols.
            model_hash: SHA-256 of the model.
            family: What was passed over before it, for the report.

        Raises:
            BudgetError: The library, or a run of it, takes more than it may.
        """
        bench = self._bench(self.target, symbol)
        decided = self._decided(graph, bench, symbol)
        first = decided[0]
        if (most := self.target.budget.latency_s) is not None:
            _require_fast(math.fsum(bench.seconds(first.graph).values()), most, first.plan)
        if family:
            decided = [replace(each, plan=replace(each.plan, family=tuple(family))) for each in decided]
        self.line("choosing kernels")
        try:
            while True:
                library = self._fitting(decided, symbol, model_hash, bench.times)
                problem = oversize(library.path.stat().st_size, self.target.budget)
                if not problem:
                    break
                if len(decided) == 1:
                    raise BudgetError(problem)
                decided = decided[:-1]
        except BudgetError as error:
            reasons = (first.plan.why_not(name) for name in ("quantization", "channel_pruning"))
            raise BudgetError("; ".join(filter(None, (str(error), *reasons)))) from error
        if len(decided) < self.variants:
            self.line(
                f"there are {len(decided)} variants of the {self.variants} asked for: no more were found that fit"
            )
        return library

    def _fitting(self, decided: Sequence[Decided], symbol: str, model_hash: str, times: TuningTable) -> Library:
        """The library of some variants, as small as the budget for its size needs, or as small as can be."""
        build = functools.partial(self._built, decided, symbol, model_hash, times)
        library = build(small=False, tuning=self.tuning)
        if oversize(library.path.stat().st_size, self.target.budget):
            library = build(small=True, tuning=self.tuning)
        if oversize(library.path.stat().st_size, self.target.budget):
            # As sizes were planned; code of algorithms that are measured to be faster may be larger.
            library = build(small=True, tuning=MODEL)
        return library

    def _decided(self, graph: Graph, bench: Workbench, symbol: str) -> list[Decided]:
        """The variants, the one that keeps most first."""
        contract = None
        if self.calibration is not None:
            drop = self.target.policy.max_drop
            contract = Contract(self.calibration, *metric_of(self.metric), drop, self._kept_bytes())
        context = Context(contract, bench.seconds, bench.size, bench.memory)
        if self.plans:
            return in_order(self._adapted(graph, bench, context, plan=plan, dump=self.dump) for plan in self.plans)
        if contract is None:
            sets = instruction_sets(self.target, self.variants)
            return [self._for_set(graph, name, each, symbol, bench) for name, each in sets]
        cache, folder = self._caches(graph)
        if known := cache.recall():
            self.line("taking the plan from the cache: the same was asked before")
            plans, bench.times = known
            return in_order(self._adapted(graph, bench, context, plan=plan, dump=self.dump) for plan in plans)
        if self.search is not None:
            if folder is None:
                self.line(
                    "what the search tries is not kept, as data, metric or passes have no fingerprint: give a key"
                )
            points, taken = explore(
                graph, self.target, context, self.search, passes=self.passes, folder=folder, progress=self.line
            )
            chosen = spread(points, taken, self.variants)
            decided = in_order(self._adapted(graph, bench, context, plan=point.plan) for point in chosen)
        else:
            decide = functools.partial(self._adapted, graph, bench, context)
            first = None if self.variants == 1 else self._as_it_is(graph, bench, context)
            # Of several variants the first is the model as it is, where that fits.
            if first is None or not self._fits(first.graph, context):
                first = decide(dump=self.dump)
            decided = in_order(faster(first, self.variants, lambda target: decide(target=target)))
            decided = self._compared(graph, bench, context, decided)
        cache.keep([each.plan for each in decided], bench.times)
        return decided

    def _kept_bytes(self) -> int:
        """What samples may take: more where channels may have to be removed, and layers fitted to what others read."""
        budget = self.target.budget
        limited = budget.latency_s or budget.size_bytes or budget.memory_bytes
        shrinks = limited or self.search is not None or self.variants > 1
        return held_bytes(this_machine()) if shrinks else KEPT_BYTES

    def _compared(self, graph: Graph, bench: Workbench, context: Context, decided: Sequence[Decided]) -> list[Decided]:
        """The same, with what they take and cost beside the model as it is, if any gives up something, in the plan."""
        contract = context.contract
        assert contract is not None
        if all(each.plan.exact for each in decided):
            return list(decided)
        others = [] if decided[0].plan.exact else [self._as_it_is(graph, bench, context)]
        context = replace(context, size=bench.built_size, memory=bench.built_memory)
        points = [point_of(each.graph, each.plan, context, name="as it is") for each in others]
        points += [point_of(each.graph, each.plan, context, name=each.name) for each in decided]
        told = records(points, points[len(others) :])
        return [replace(each, plan=replace(each.plan, points=told)) for each in decided]

    def _as_it_is(self, graph: Graph, bench: Workbench, context: Context) -> Decided:
        """What exact passes make of a graph."""
        exact = [each for each in choose_passes(self.passes) if each.exact]
        return replace(self, passes=exact)._adapted(graph, bench, replace(context, contract=None))

    def _fits(self, graph: Graph, context: Context) -> bool:
        limited = limits(graph, self.target, context)
        return fit(limited, [limit.taken(graph) for limit in limited])

    def _adapted(
        self,
        graph: Graph,
        bench: Workbench,
        context: Context,
        *,
        target: Target | None = None,
        plan: Plan | None = None,
        dump: str | os.PathLike[str] | None = None,
    ) -> Decided:
        made, plan = adapt(
            graph,
            target or self.target,
            context=context,
            passes=self.passes,
            plan=plan,
            verify=self.verify,
            dump=dump,
            progress=self.line,
        )
        timed = self.variants > 1 or len(self.plans) > 1 or self.calibration is not None
        times = bench.seconds(made) if timed else {}
        return Decided(FULL, self.target, made, plan, times)

    def _for_set(self, graph: Graph, name: str, target: Target, symbol: str, known: Workbench) -> Decided:
        """A variant for an instruction set; what it takes is known to the other workbench then, too."""
        bench = self._bench(target, symbol)
        context = Context(None, bench.seconds, bench.size, bench.memory)
        dump = self.dump if target is self.target else None
        made = self._adapted(graph, bench, context, target=target, dump=dump)
        known.times = known.times.merged(bench.times)
        return replace(made, name=name, target=target)

    def _bench(self, target: Target, symbol: str) -> Workbench:
        return Workbench(
            target,
            symbol,
            passes=self.passes,
            tuning=self.tuning,
            exact_order=self.exact_order,
            progress=self.line,
        )

    def _caches(self, graph: Graph) -> tuple[PlanCache, Path | None]:
        """Where what is decided is kept, and what a search tries."""
        assert self.calibration is not None
        of = functools.partial(
            plan_cache,
            graph,
            data=self.calibration,
            metric=self.metric,
            key=self.key,
            passes=self.passes,
            tuning=how_to_tune(self.target, self.tuning),
            exact_order=self.exact_order,
        )
        decided = of(self.target, search=self.search, variants=self.variants)
        # What was tried for one budget of latency, or number of variants, serves others.
        return decided, None if self.search is None else of(with_latency(self.target, None)).search_folder

    def _built(
        self,
        decided: Sequence[Decided],
        symbol: str,
        model_hash: str,
        times: TuningTable,
        *,
        small: bool,
        tuning: Tuning,
    ) -> Library:
        """The library of some variants."""
        variants: list[Variant] = []
        for each in decided:
            program, taken = tuned(
                functools.partial(self._lowered, each, symbol, small),
                each.target,
                tuning,
                self.line,
            )
            times = times.merged(taken)
            plan = json.loads(each.plan.to_json())
            variants.append(Variant(each.name, program, each.target, each.seconds, plan, self._times(each, program)))
        return generate_variants(variants, model_hash=model_hash, tuning=times.to_record(), progress=self.line)

    def _times(self, decided: Decided, program: Program) -> Mapping[str, float]:
        """What steps take: measured where that was done to decide."""
        return decided.times or predicted_seconds(program, decided.target)

    def _lowered(self, decided: Decided, symbol: str, small: bool, table: TuningTable) -> Program:
        return lower(
            decided.graph, decided.target, symbol, tuning=table.taken, exact_order=self.exact_order, small=small
        )


def _require_fast(seconds: float, most: float, plan: Plan) -> None:
    """Refuse a model that takes longer than its budget."""
    if seconds > most:
        problem = f"a run takes {format_seconds(seconds)}, and the budget for latency is {format_seconds(most)}"
        raise BudgetError("; ".join(filter(None, (problem, plan.why_not("channel_pruning")))))
