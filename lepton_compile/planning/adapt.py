"""adapt(graph, target): passes propose, stage by stage, and run; or the steps of an earlier plan do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compile.errors import LeptonError
from lepton_compile.model import Graph
from lepton_compile.model.fingerprints import hash_of_weights, structure_of
from lepton_compile.planning.plan import Plan
from lepton_compile.rewriting.manager import replay_steps, run_passes
from lepton_compile.rewriting.passes import Context, Pass, Stage
from lepton_compile.rewriting.registry import configure, create_pass, registered_passes

if TYPE_CHECKING:
    from lepton_compile.target import Target


def adapt(
    graph: Graph,
    target: Target,
    *,
    context: Context | None = None,
    passes: Sequence[str | Pass] | None = None,
    plan: Plan | None = None,
    verify: bool = False,
    dump: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, Plan]:
    """Adapt a graph to a target, and say what was done.

    Args:
        graph: The imported graph; it is left as it is.
        target: What the model is compiled for.
        context: What passes may use beside the graph; None: nothing, so that exact ones alone run.
        passes: The passes that take part; None: every registered one. Exactly these are considered, in the manager's
            order and to its fixpoint; an empty sequence leaves the graph as it is. Each is a name ("dead_nodes"), a
            text with settings ("my_pass{width=4}"), or an instance, which need not be registered. With settings the
            pass proposes from those.
        plan: Run the steps of this plan and decide nothing anew; the plan that comes back is this one. `passes` then
            serves only to find passes that are not registered.
        verify: Compare with onnxruntime's answers for the original after every step.
        dump: A folder that gets the graph after every step, as `NN-stage-pass.onnx`.
        progress: Called with one line when a pass is run.

    Raises:
        PassError: A pass failed or broke the model; it is named.
        LeptonError: A pass of `passes` or `plan` does not exist or has no such settings; the plan is for another model.
    """
    context = context or Context()
    folder = None if dump is None else Path(dump)
    structure = structure_of(graph)
    if plan is not None:
        if plan.structure and plan.structure != structure:
            raise LeptonError("the plan was made for a model of other operators or shapes; compile without it")
        if plan.weights and plan.weights != hash_of_weights(graph):
            raise LeptonError("the plan was made under an accuracy contract for other weights; compile without it")
        steps = [(configure(step.name, step.settings, _classes(passes)), step) for step in plan.steps]
        return replay_steps(graph, steps, context, verify=verify, dump=folder, progress=progress), plan
    chosen = choose_passes(passes)
    context = replace(context, outlook=_outlook(chosen, target, context))
    adapted, taken, declined = run_passes(graph, chosen, target, context, verify=verify, dump=folder, progress=progress)
    made = Plan(taken, declined, structure)
    return adapted, made if made.exact else replace(made, weights=hash_of_weights(graph))


def _outlook(passes: Sequence[Pass], target: Target, context: Context) -> Callable[[Graph, Stage], Graph]:
    order = list(Stage)

    def outlook(graph: Graph, stage: Stage) -> Graph:
        later = [rewrite for rewrite in passes if order.index(rewrite.stage) > order.index(stage)]
        return run_passes(graph, later, target, context)[0]

    return outlook


def finish(graph: Graph, target: Target, *, passes: Sequence[str | Pass] | None = None) -> Graph:
    """What becomes of a graph that an approximate pass has in mind: the exact passes from its stage on run."""
    later = [rewrite for rewrite in choose_passes(passes) if rewrite.exact and rewrite.stage is not Stage.CANONICALISE]
    return run_passes(graph, later, target)[0]


def choose_passes(passes: Sequence[str | Pass] | None) -> list[Pass]:
    """The passes that take part; see `adapt`."""
    if passes is None:
        return [cls() for cls in registered_passes().values()]
    classes: Mapping[str, type[Pass]] | None = None
    if any(isinstance(item, str) for item in passes):
        classes = registered_passes()
    return [create_pass(item, classes) if isinstance(item, str) else item for item in passes]


def _classes(passes: Sequence[str | Pass] | None) -> dict[str, type[Pass]]:
    """The classes that a plan's steps are made from: the registered ones, and those of the instances given."""
    return registered_passes() | {item.name: type(item) for item in passes or () if isinstance(item, Pass)}
