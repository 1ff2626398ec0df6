"""From a search over what passes may be told to the front, and to the plan that keeps budgets at the least cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lepton_compile.errors import BudgetError, PassError
from lepton_compile.model import Graph
from lepton_compile.planning.adapt import adapt, choose_passes
from lepton_compile.planning.points import Point, Settings, best, front, point_of, records
from lepton_compile.planning.search import search
from lepton_compile.rewriting.limits import limits
from lepton_compile.rewriting.passes import Context, Pass
from lepton_compile.target import Target, with_latency


def explore(
    graph: Graph,
    target: Target,
    context: Context,
    seconds: float,
    *,
    passes: Sequence[str | Pass] | None = None,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Point], Point]:
    """Search for the best plan, beside the one that is found by rule.

    Args:
        graph: The imported graph; it is left as it is.
        target: What the model is compiled for.
        context: The contract that every plan has to hold, and what tells what graphs take.
        seconds: How long to search, once there is a plan by rule.
        passes: The passes that take part; None: every registered one.
        folder: Where to keep what is tried; None: in memory.
        progress: Called with one line for each plan that was tried.

    Returns:
        The points that none other beats, and of those the one to take; its plan tells of all that were tried.

    Raises:
        BudgetError: No plan that was tried keeps the budgets; says how near they came.
        LeptonError: Optuna is not installed.
    """
    chosen = choose_passes(passes)
    # What passes are told says how fast plans are; which is fast enough is seen then.
    timeless = with_latency(target, None)

    def evaluate(settings: Settings) -> Point:
        told = [_told(each, settings) for each in chosen]
        made, plan = adapt(graph, timeless, context=context, passes=told)
        return point_of(made, plan, context, settings)

    knobs = {f"{each.name}.{name}": values for each in chosen for name, values in open_choices(each).items()}
    by_rule = adapt(graph, target, context=context, passes=passes)
    points = [point_of(*by_rule, context, name="by rule"), *search(knobs, evaluate, seconds, folder, progress)]
    limited = limits(graph, target, context)
    taken = best(points, limited)
    if taken is None:
        nearest = min(points, key=lambda point: point.over(limited))
        how_near = "; ".join(each.compared(nearest.taken[each.resource.value]) for each in limited)
        raise BudgetError(f"of {len(points)} plans that were tried none keeps the budgets; the nearest: {how_near}")
    return front(points), replace(taken, plan=replace(taken.plan, points=records(points, [taken])))


def open_choices(rewrite: Pass) -> Mapping[str, Sequence[object]]:
    """The settings of a pass that a search may try: those that whoever made it left as they are by default.

    Raises:
        PassError: A pass has choices for what is no setting of its.
    """
    settings, default = rewrite.settings(), type(rewrite)().settings()
    if unknown := sorted(set(rewrite.choices) - set(settings)):
        raise PassError(rewrite.name, f"has choices for '{unknown[0]}', which is no setting of it")
    return {name: values for name, values in rewrite.choices.items() if values and settings[name] == default[name]}


def _told(rewrite: Pass, settings: Settings) -> Pass:
    """A pass with the settings that are its own."""
    own: Mapping[str, object] = {name: settings[f"{rewrite.name}.{name}"] for name in open_choices(rewrite)}
    return replace(rewrite, **own) if own else rewrite  # type: ignore[type-var]
