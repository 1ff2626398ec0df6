"""The pass manager: order, fixpoint, checks, and the name of the pass that breaks a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from lepton_compile.errors import PassError
from lepton_compile.rewriting import Context, Decline, Pass, Proposal, Stage, run_passes
from lepton_compile.rewriting.manager import MAXIMUM_ROUNDS, ordered
from lepton_compile.rewriting.passes import Pass as PassBase

MODEL = "main (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { a = Relu (x)  b = Exp (a)  y = Mul (b, w) }"


@dataclass(frozen=True)
class Edit(Pass):
    """Does what a test wants, once: as long as some node is called `old`."""

    name = "edit"
    stage = Stage.CANONICALISE
    old: str = "Relu_a"

    def propose(self, graph, target, context):
        found = any(node.name == self.old for node in graph.nodes())
        return Proposal(self, f"there is {self.old}", ("x: left alone",)) if found else Decline(f"no {self.old}")

    def run(self, graph, context):
        node = next(node for node in graph.nodes() if node.name == self.old)
        node.name = f"{self.old}_done"
        self.change(graph, node)
        return graph

    def change(self, graph, node):
        pass


def passes_like(**names: tuple[str, ...]) -> list[PassBase]:
    return [type(name, (Edit,), {"name": name, "after": after})() for name, after in names.items()]


def test_order_is_by_after_then_by_name():
    passes = passes_like(d=(), b=("c",), a=("b", "missing"), c=())
    assert [rewrite.name for rewrite in ordered(passes)] == ["c", "b", "a", "d"]
    assert [rewrite.name for rewrite in ordered(passes[::-1])] == ["c", "b", "a", "d"]


def test_a_circle_is_an_error():
    with pytest.raises(PassError, match="a, b form a circle"):
        ordered(passes_like(a=("b",), b=("a",), c=()))


def test_stages_follow_each_other_and_each_settles(graph):
    late = type("Late", (Edit,), {"name": "a_late", "stage": Stage.FUSE})(old="Relu_a_done")
    second = type("Second", (Edit,), {"name": "a_second"})(old="Exp_b_done")
    first = Edit(old="Relu_a")
    third = type("Third", (Edit,), {"name": "third"})(old="Exp_b")
    original = graph(MODEL)
    result, steps, declined = run_passes(original, [late, second, first, third], None)
    assert [step.name for step in steps] == ["edit", "third", "a_second", "a_late"]
    assert [node.name for node in result.nodes()] == ["Relu_a_done_done", "Exp_b_done_done", "Mul_y"]
    assert [node.name for node in original.nodes()] == ["Relu_a", "Exp_b", "Mul_y"]
    assert steps[0].reason == "there is Relu_a" and steps[0].refusals == ("x: left alone",)
    assert steps[0].settings == {"old": "Relu_a"}
    assert {(answer.name, answer.reason) for answer in declined} >= {
        ("edit", "no Relu_a"),
        ("a_late", "no Relu_a_done"),
    }


def test_the_settings_that_are_proposed_are_run(graph):
    class Proposing(Edit):
        def propose(self, graph, target, context):
            answer = super().propose(graph, target, context)
            if isinstance(answer, Decline) and self.old == "Relu_a":
                return replace(self, old="Exp_b").propose(graph, target, context)
            return answer

    _, steps, _ = run_passes(graph(MODEL), [Proposing()], None)
    assert [step.settings["old"] for step in steps] == ["Relu_a", "Exp_b"]


def test_a_pass_that_changes_nothing_is_no_step(graph):
    class Idle(Edit):
        def run(self, graph, context):
            return graph

    _, steps, (declined,) = run_passes(graph(MODEL), [Idle()], None)
    assert steps == ()
    assert declined.reason == "it changed nothing though it proposed: there is Relu_a"


def test_approximate_passes_need_a_contract(graph):
    lossy = type("Lossy", (Edit,), {"name": "lossy", "exact": False})()
    _, steps, (declined,) = run_passes(graph(MODEL), [lossy], None)
    assert steps == () and "no accuracy contract" in declined.reason and "there is Relu_a" in declined.reason
    _, steps, _ = run_passes(graph(MODEL), [lossy], None, Context(contract=object()))
    assert [step.exact for step in steps] == [False]


def test_progress_and_dumps(graph, tmp_path):
    lines: list[str] = []
    late = type("Late", (Edit,), {"name": "late", "stage": Stage.FUSE})(old="Exp_b")
    run_passes(graph(MODEL), [Edit(), late], None, dump=tmp_path / "new", progress=lines.append)
    assert lines == ["canonicalise: edit: there is Relu_a", "fuse: late: there is Exp_b"]
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["01-canonicalise-edit.onnx", "02-fuse-late.onnx"]
    assert onnx.load(tmp_path / "new" / files[1]).graph.node[1].name == "Exp_b_done"


def breaking(change):
    return type("Breaking", (Edit,), {"name": "breaking", "change": change})()


def test_passes_that_undo_each_other_are_stopped(graph):
    there = Edit(old="Relu_a")

    def back(self, graph, node):
        node.name = "Relu_a"

    back_again = type("Back", (Edit,), {"name": "back", "change": back})(old="Relu_a_done")
    with pytest.raises(PassError, match=f"after {MAXIMUM_ROUNDS} rounds of stage canonicalise"):
        run_passes(graph(MODEL), [there, back_again], None)


def test_nodes_without_a_name_get_one(graph):
    def add_nameless(self, graph, node):
        copied = gs.Variable("copied", np.float32, (2, 3))
        graph.gs.nodes.insert(1, gs.Node("Identity", "", inputs=[node.outputs[0]], outputs=[copied]))
        graph.gs.nodes[2].inputs[0] = copied

    result, _, _ = run_passes(graph(MODEL), [breaking(add_nameless)], None)
    assert [node.name for node in result.nodes()] == ["Relu_a_done", "Identity_copied", "Exp_b", "Mul_y"]


def raises(self, graph, node):
    raise KeyError("lost")


def unknown_operator(self, graph, node):
    node.op = "NoSuchOperator"


def dangling_input(self, graph, node):
    node.inputs[0] = gs.Variable("nowhere", np.float32, (2, 3))


def renamed_output(self, graph, node):
    graph.gs.outputs[0].name = "z"


def reshaped_output(self, graph, node):
    graph.gs.nodes[2].inputs[1].values = np.ones((5, 1, 1), np.float32)


def ambiguous_constant(self, graph, node):
    graph.gs.nodes[1].op = "Add"
    graph.gs.nodes[1].inputs.append(gs.Constant("w", np.ones(3, np.float32)))


def unknown_shape(self, graph, node):
    count = gs.Variable("count", np.int64)
    graph.gs.nodes.append(gs.Node("NonZero", "count", inputs=[graph.gs.inputs[0]], outputs=[count]))


def retyped_input(self, graph, node):
    graph.gs.inputs[0].dtype = np.dtype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raises, "failed while rewriting: KeyError: 'lost'"),
        (unknown_operator, "not valid ONNX"),
        (dangling_input, "not valid ONNX"),
        (renamed_output, "changed the outputs of the model: y .* became z"),
        (reshaped_output, r"changed the outputs of the model: y .*\[2, 3\]\) became y .*\[5, 2, 3\]"),
        (ambiguous_constant, "two different constants that are both called 'w'"),
        (unknown_shape, "not valid: 'count', output 0 of node 'count'"),
        (retyped_input, "not valid|changed the inputs"),
    ],
)
def test_a_broken_pass_is_named(graph, change, message):
    with pytest.raises(PassError) as caught:
        run_passes(graph(MODEL), [Edit(old="Exp_b"), breaking(change)], None)
    assert caught.value.pass_name == "breaking"
    assert caught.value.stage == "canonicalise"
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_pass_that_answers_nonsense_is_named(graph):
    for answer in (None, Proposal(Edit(), "not itself")):
        rewrite = type("Odd", (Edit,), {"name": "odd", "propose": lambda self, *_, answer=answer: answer})()
        with pytest.raises(PassError, match="pass 'odd': proposed something else"):
            run_passes(graph(MODEL), [rewrite], None)
    with pytest.raises(PassError, match="pass 'odd': failed while proposing: ZeroDivisionError"):
        run_passes(graph(MODEL), [type("Odd", (Edit,), {"name": "odd", "propose": lambda self, *_: 1 / 0})()], None)
    with pytest.raises(PassError, match="pass 'odd': returned NoneType instead of a Graph"):
        run_passes(graph(MODEL), [type("Odd", (Edit,), {"name": "odd", "run": lambda self, *_: None})()], None)


def other_weights(self, graph, node):
    graph.gs.nodes[2].inputs[1].values = np.float32([1, 2, 3.01])


def rounded_weights(self, graph, node):
    graph.gs.nodes[2].inputs[1].values = np.float32([1, 2, 3.000001])


def test_verification_names_the_first_pass_that_changes_values(graph):
    passes = [Edit(old="Exp_b"), breaking(other_weights)]
    run_passes(graph(MODEL), passes, None)
    with pytest.raises(PassError, match="pass 'breaking': changed the values of the model"):
        run_passes(graph(MODEL), passes, None, verify=True)
    run_passes(graph(MODEL), [Edit(old="Exp_b"), breaking(rounded_weights)], None, verify=True)


def test_after_an_approximate_pass_its_result_is_what_later_ones_are_held_to(graph):
    lossy = type("Lossy", (Edit,), {"name": "lossy", "exact": False, "change": other_weights})()
    late = type("Late", (Edit,), {"name": "late", "stage": Stage.FUSE})(old="Exp_b")
    _, steps, _ = run_passes(graph(MODEL), [lossy, late], None, Context(contract=object()), verify=True)
    assert [step.name for step in steps] == ["lossy", "late"]


def test_verification_does_not_ask_for_more_than_the_model_can_give(graph):
    # The difference of nearly equal numbers: a rounding of x moves the answer by several per cent.
    text = "main (float[2,3] x) => (float[2,3] y) <float big = {300000.0}> { a = Add (x, big)  y = Sub (a, big) }"

    def reorder(self, graph, node):
        node.inputs[0], node.inputs[1] = node.inputs[1], node.inputs[0]
        graph.gs.nodes[1].inputs[1].values = np.float32(300000.03)
        graph.gs.nodes[0].inputs[0].values = np.float32(300000.03)

    rewrite = type("Reorder", (Edit,), {"name": "reorder", "change": reorder})(old="Add_a")
    run_passes(graph(text), [rewrite], None, verify=True)

    def double(self, graph, node):
        graph.gs.nodes[1].op = "Add"

    wrong = type("Wrong", (Edit,), {"name": "wrong", "change": double})(old="Add_a")
    with pytest.raises(PassError, match="pass 'wrong': changed the values"):
        run_passes(graph(text), [wrong], None, verify=True)
