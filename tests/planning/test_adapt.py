"""adapt: which passes take part, and replaying a plan."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from lepton_compile.passes.dead_nodes import DeadNodes

from lepton_compile.errors import LeptonError
from lepton_compile.planning import Plan, adapt
from lepton_compile.rewriting import Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.equality import same_graph
from lepton_compile.target import resolve_target

MODEL = """
main (float[1,2,4] x) => (float[1,3,4] y) <
    float[3,2,1] w = {1,2,3,4,5,6}, float[3] s = {1,2,3}, float[3] b = {0,1,0}, float[3] m = {0,0,1},
    float[3] v = {1,2,3}
> {
    a = Conv (x, w)
    n = BatchNormalization (a, s, b, m, v)
    i = Identity (n)
    unused = Exp (i)
    y = Relu (i)
}"""


@dataclass(frozen=True)
class Rename(Pass):
    """A vendor's pass that is not registered."""

    name = "rename"
    stage = Stage.CANONICALISE
    suffix: str = "_new"

    def propose(self, graph, target, context):
        done = all(node.name.endswith(self.suffix) for node in graph.nodes())
        return Decline("done") if done else Proposal(self, "names are old")

    def run(self, graph, context):
        for node in graph.nodes():
            node.name += self.suffix
        return graph


def operators(graph):
    return [node.op for node in graph.nodes()]


def test_all_registered_passes_by_default(graph):
    original = graph(MODEL)
    adapted, plan = adapt(original, resolve_target("x86-64-v3"), verify=True)
    assert operators(adapted)[:1] == ["Conv"] or adapted.gs.functions
    assert {"dead_nodes", "no_operations", "batch_normalization"} <= {step.name for step in plan.steps}
    assert operators(original) == ["Conv", "BatchNormalization", "Identity", "Exp", "Relu"]


@pytest.mark.parametrize("passes", [["dead_nodes"], [DeadNodes()], ["dead_nodes{}"]])
def test_exactly_the_given_passes_are_considered(graph, passes):
    adapted, plan = adapt(graph(MODEL), None, passes=passes)
    assert operators(adapted) == ["Conv", "BatchNormalization", "Identity", "Relu"]
    assert [answer.name for answer in plan.declined] == ["dead_nodes"]


def test_no_passes_leave_the_graph_as_it_is(graph):
    original = graph(MODEL)
    adapted, plan = adapt(original, resolve_target("x86-64-v3"), passes=[])
    assert same_graph(original, adapted)
    assert (plan.steps, plan.declined) == ((), ())


def test_an_unknown_pass(graph):
    with pytest.raises(LeptonError, match="there is no pass 'dead_node'; did you mean dead_nodes"):
        adapt(graph(MODEL), None, passes=["dead_node"])


def test_a_replay_does_the_same_and_decides_nothing(graph, monkeypatch):
    original = graph(MODEL)
    first, plan = adapt(original, resolve_target("x86-64-v3"))
    monkeypatch.setattr(DeadNodes, "propose", lambda *_: pytest.fail("a replay must not propose"))
    again, same_plan = adapt(original, resolve_target("x86-64-v3"), plan=Plan.from_json(plan.to_json()), verify=True)
    assert same_graph(first, again)
    assert same_plan == plan
    assert first.to_model().SerializeToString() == again.to_model().SerializeToString()


def test_a_pass_that_is_not_registered(graph):
    original = graph(MODEL)
    adapted, plan = adapt(original, resolve_target("x86-64-v3"), passes=[Rename(suffix="_2")])
    assert [step.settings for step in plan.steps] == [{"suffix": "_2"}]
    with pytest.raises(LeptonError, match="there is no pass 'rename'"):
        adapt(original, resolve_target("x86-64-v3"), plan=plan)
    again, _ = adapt(original, resolve_target("x86-64-v3"), plan=plan, passes=[Rename()])
    assert same_graph(adapted, again)


def test_dump_of_a_folder_given_as_text(graph, tmp_path):
    adapt(graph(MODEL), None, passes=["dead_nodes"], dump=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["01-canonicalise-dead_nodes.onnx"]


def test_a_plan_is_for_models_of_the_same_structure(graph):
    relu, other = (
        graph(f"main (float[2,3] x) => (float[2,3] y) {{ t = {op} (x)\n y = Neg (t) }}") for op in ("Relu", "Sigmoid")
    )
    plan = adapt(relu, resolve_target("x86-64-v3"))[1]
    with pytest.raises(LeptonError, match="made for a model of other operators or shapes"):
        adapt(other, None, plan=plan)
    adapt(relu, resolve_target("x86-64-v3"), plan=Plan.from_json(plan.to_json()))
