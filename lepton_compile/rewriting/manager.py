"""The pass manager: runs passes stage by stage to a fixpoint, checks each step, and names the pass that breaks a model.

In a stage every pass proposes on the graph as it is then; what it proposes is run on a copy, and the result is checked
before it becomes the graph. The stage is over when no pass has anything left to propose.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from lepton_compile.errors import CalibrationError, PassError, UnsupportedOperatorError
from lepton_compile.model import Graph
from lepton_compile.model.from_onnx import name_nodes
from lepton_compile.rewriting.equality import same_graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.validity import why_invalid

if TYPE_CHECKING:
    from lepton_compile.rewriting.verification import Verification
    from lepton_compile.target import Target

# A stage whose passes undo each other's work never settles; real models settle within a handful of rounds.
MAXIMUM_ROUNDS = 40


@dataclass(frozen=True)
class Step:
    """A pass that was run and changed the graph.

    Attributes:
        name: The pass's name.
        stage: The stage it ran in.
        settings: Its settings, as JSON values.
        reason: Why it proposed itself.
        refusals: The places that it left alone, each with why.
        exact: Whether it keeps the model's values.
        findings: What it rested on, as JSON values.
    """

    name: str
    stage: Stage
    settings: Mapping[str, object]
    reason: str
    refusals: tuple[str, ...] = ()
    exact: bool = True
    findings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Declined:
    """What a pass answered when its stage was over.

    Attributes:
        name: The pass's name.
        stage: Its stage.
        reason: Why it had nothing (more) to do.
        refusals: The places that it left alone, each with why.
        findings: What the answer rested on, as JSON values.
    """

    name: str
    stage: Stage
    reason: str
    refusals: tuple[str, ...] = ()
    findings: Mapping[str, object] = field(default_factory=dict)


def run_passes(
    graph: Graph,
    passes: Iterable[Pass],
    target: Target,
    context: Context | None = None,
    *,
    verify: bool = False,
    dump: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, tuple[Step, ...], tuple[Declined, ...]]:
    """Run `passes`, stage by stage, each stage to its fixpoint.

    The order is the same every time: by stage, by what comes `after` what, by name.

    Args:
        graph: The graph; it is left as it is.
        passes: The passes that take part, with the settings from which they propose.
        target: What the model is compiled for.
        context: What the passes may use; None for nothing.
        verify: After each step, compare with onnxruntime's answers for the original on probe inputs.
        dump: A folder that gets `NN-stage-pass.onnx` after each step.
        progress: Called with one line when a pass is run.

    Returns:
        The rewritten graph, the steps that led to it, and the last answer of each pass.

    Raises:
        PassError: A pass raised, or left a graph that is not valid ONNX, has other inputs or outputs, or other
            values; or the passes of a stage undo each other's work for ever.
    """
    context = context or Context()
    chain = _Chain(graph, context, _verification(graph) if verify else None, dump, progress)
    declined: list[Declined] = []
    passes = list(passes)
    for stage in Stage:
        answers = _settle(chain, ordered([rewrite for rewrite in passes if rewrite.stage is stage]), target, context)
        declined += [
            Declined(name, stage, answer.reason, answer.refusals, answer.findings) for name, answer in answers.items()
        ]
    return chain.graph, tuple(chain.steps), tuple(declined)


def replay_steps(
    graph: Graph,
    rewrites: Iterable[tuple[Pass, Step]],
    context: Context | None = None,
    *,
    verify: bool = False,
    dump: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Graph:
    """Run earlier steps again, in their order; nothing is proposed or decided. Arguments as for `run_passes`."""
    chain = _Chain(graph, context or Context(), _verification(graph) if verify else None, dump, progress)
    for rewrite, step in rewrites:
        chain.run(Proposal(rewrite, step.reason, step.refusals, step.findings))
    return chain.graph


def ordered(passes: Sequence[Pass]) -> list[Pass]:
    """The passes of a stage in the order they run: topologically by `after`, then by name, then as given.

    Raises:
        PassError: The passes wait for each other in a circle.
    """
    names = {rewrite.name for rewrite in passes}
    waits = {name: set[str]() for name in names}
    for rewrite in passes:
        waits[rewrite.name] |= set(rewrite.after) & names - {rewrite.name}
    ready = [name for name in names if not waits[name]]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        order.append(done := heapq.heappop(ready))
        for name in names:
            if done in waits[name]:
                waits[name].remove(done)
                if not waits[name]:
                    heapq.heappush(ready, name)
    if circle := sorted(names - set(order)):
        raise PassError(circle[0], f"waits for itself through 'after': {', '.join(circle)} form a circle")
    return sorted(passes, key=lambda rewrite: order.index(rewrite.name))


def _settle(chain: _Chain, passes: Sequence[Pass], target: Target, context: Context) -> dict[str, Decline]:
    """Run the passes of one stage until none changes the graph; returns their last answers."""
    answers: dict[str, Decline] = {}
    unchanged = 0
    for _ in range(MAXIMUM_ROUNDS):
        for rewrite in passes:
            answer = _proposal(rewrite, chain.graph, target, context)
            if isinstance(answer, Proposal):
                if chain.run(answer):
                    unchanged = 0
                    continue
                answer = Decline(f"it changed nothing though it proposed: {answer.reason}", answer.refusals)
            answers[rewrite.name] = answer
            unchanged += 1
            if unchanged >= len(passes):
                return answers
    if not passes:
        return answers
    raise PassError(
        chain.steps[-1].name,
        f"still changes the graph after {MAXIMUM_ROUNDS} rounds of stage {passes[0].stage.value}; "
        "it or another pass undoes what was done before",
        stage=passes[0].stage.value,
    )


def _proposal(rewrite: Pass, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
    """What the pass answers, with an answer that cannot be used turned into an error or a refusal."""
    try:
        answer: object = rewrite.propose(graph, target, context)
    except (CalibrationError, UnsupportedOperatorError):
        raise  # the user's data, metric or model, not the pass
    except Exception as error:
        message = f"failed while proposing: {_text(error)}"
        raise PassError(rewrite.name, message, stage=rewrite.stage.value) from error
    if isinstance(answer, Decline):
        return answer
    if not isinstance(answer, Proposal) or type(answer.rewrite) is not type(rewrite):
        raise PassError(rewrite.name, "proposed something else than itself with settings", stage=rewrite.stage.value)
    if not rewrite.exact and context.contract is None:
        reason = f"it is approximate and there is no accuracy contract (give calibration data); {answer.reason}"
        return Decline(reason, answer.refusals)
    return answer


class _Chain:
    """The graph as it is now, and the steps that led to it."""

    def __init__(
        self,
        graph: Graph,
        context: Context,
        verification: Verification | None,
        dump: Path | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self._context = context
        self._verification = verification
        self._dump = dump
        self._progress = progress

    def run(self, proposal: Proposal) -> bool:
        """Run what is proposed on a copy, check the result and take it over; False when it changed nothing."""
        rewrite = proposal.rewrite
        if self._progress is not None:
            self._progress(f"{rewrite.stage.value}: {rewrite.name}: {proposal.reason}")
        stage = rewrite.stage.value
        try:
            result: object = rewrite.run(self.graph.copy(), self._context)
        except Exception as error:
            raise PassError(rewrite.name, f"failed while rewriting: {_text(error)}", stage=stage) from error
        if not isinstance(result, Graph):
            raise PassError(rewrite.name, f"returned {type(result).__name__} instead of a Graph", stage=stage)
        name_nodes(result.gs)
        if same_graph(self.graph, result):
            return False
        if why := why_invalid(self.graph, result):
            raise PassError(rewrite.name, why, stage=stage)
        self.steps.append(
            Step(
                rewrite.name,
                rewrite.stage,
                rewrite.settings(),
                proposal.reason,
                proposal.refusals,
                rewrite.exact,
                proposal.findings,
            )
        )
        if self._dump is not None:
            self._dump.mkdir(parents=True, exist_ok=True)
            onnx.save_model(result.to_model(), self._dump / f"{len(self.steps):02d}-{stage}-{rewrite.name}.onnx")
        if self._verification is not None:
            if rewrite.exact:
                self._verification.check(rewrite, result)
            else:
                # The contract judges what an approximate pass loses; later passes are held to its result.
                self._verification = _verification(result)
        self.graph = result
        return True


def _verification(reference: Graph) -> Verification:
    # Bisection, in evaluation, runs passes itself: imported above, each would wait for the other.
    from lepton_compile.rewriting.verification import Verification

    return Verification(reference)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
