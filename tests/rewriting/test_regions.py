import numpy as np
import pytest

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.patterns import Uses
from lepton_compile.rewriting.regions import Region, fuse, kind_of, positions, why_not_fuse


def named(graph, *operators):
    """The nodes that compute these operators, in the order of the graph."""
    return tuple(node for scope in bodies(graph.gs) for node in scope.nodes if node.op in operators)


def fused(graph, *groups, kind="ElementWise"):
    """A copy in which each group of operators is one region."""
    copy = graph.copy()
    uses = Uses(copy)
    regions = []
    for group in groups:
        nodes = named(copy, *group)
        assert why_not_fuse(uses, nodes) == ""
        regions.append(Region(kind, nodes[-1].name, nodes))
    fuse(copy, uses, regions)
    copy.check()
    copy.infer_shapes()
    return copy


def test_a_call_takes_the_place_of_the_last_node(graph):
    before = graph(
        "main (float[2,3] x, float[2,3] z) => (float[2,3] y, float[2,3] late)"
        "{ a = Relu (x)  late = Neg (z)  b = Exp (late)  c = Mul (a, b)  y = Sqrt (c) }"
    )
    after = fused(before, ("Relu", "Mul"))
    assert [node.op for node in after.gs.nodes] == ["Neg", "Exp", "ElementWise_0", "Sqrt"]
    call = after.gs.nodes[2]
    assert (kind_of(call), call.name) == ("ElementWise", named(before, "Mul")[0].name)
    assert [tensor.name for tensor in call.inputs] == ["x", "b"]
    assert [tensor.name for tensor in call.outputs] == ["c"]
    assert (call.outputs[0].dtype, call.outputs[0].shape) == (np.float32, (2, 3))
    (function,) = after.gs.functions
    assert [node.name for node in function.nodes] == [node.name for node in named(before, "Relu", "Mul")]
    inputs = {name: np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32) for name in "xz"}
    for name, value in before.run(inputs).items():
        np.testing.assert_array_equal(after.run(inputs)[name], value)


def test_small_constants_go_inside_and_weights_come_in_once(graph):
    weight = ", ".join(map(str, range(17)))
    before = graph(
        f"main (float[17] x) => (float[17] y) <float two = {{2}}, float[17] w = {{{weight}}}>"
        "{ a = Mul (x, two)  b = Add (a, w)  c = Sub (b, two)  y = Mul (w, c) }"
    )
    after = fused(before, ("Mul", "Add", "Sub"))
    (call,) = after.gs.nodes
    (function,) = after.gs.functions
    assert [tensor.name for tensor in call.inputs] == ["x", "w"]
    assert [tensor.name for tensor in function.inputs] == ["x", "w"]
    x = {"x": np.linspace(0.5, 2, 17, dtype=np.float32)}
    np.testing.assert_array_equal(after.run(x)["y"], before.run(x)["y"])
    assert [node.op_type for node in after.to_model().functions[0].node] == ["Constant", "Mul", "Add", "Sub", "Mul"]


def test_a_missing_operand_stays_missing(graph):
    before = graph("main (float[3] x) => (float[3] y) <float six = {6}> { a = Neg (x)  y = Clip (a, , six) }")
    after = fused(before, ("Neg", "Clip"))
    assert [tensor.name for tensor in after.gs.nodes[0].inputs] == ["x"]
    x = {"x": np.array([-9, 0, 9], np.float32)}
    np.testing.assert_array_equal(after.run(x)["y"], [6, 0, -9])


def test_calls_inside_calls_survive_writing_and_reading(graph):
    before = graph("main (float[3] x) => (float[3] y) { a = Sigmoid (x)  b = Mul (x, a)  y = Exp (b) }")
    once = fused(before, ("Sigmoid", "Mul"), kind="SiLU")
    twice = fused(once, ("SiLU_0", "Exp"), kind="Convolution")
    assert [node.op for node in twice.gs.nodes] == ["Convolution_0"]
    assert [function.name for function in twice.gs.functions] == ["SiLU_0", "Convolution_0"]
    again = Graph.from_model(twice.to_model())
    x = {"x": np.array([-1, 0, 2], np.float32)}
    for one in (twice, twice.copy(), again):
        np.testing.assert_array_equal(one.run(x)["y"], before.run(x)["y"])


def test_numbers_go_on_by_kind(graph):
    text = "main (float[3] x) => (float[3] y) { a = Relu (x)  b = Exp (a)  c = Neg (b)  y = Abs (c) }"
    once = fused(graph(text), ("Exp", "Neg"))
    twice = fused(once, ("Relu",), ("Abs",))
    assert [node.op for node in twice.gs.nodes] == ["ElementWise_1", "ElementWise_0", "ElementWise_2"]


BRANCHES = (
    "main (bool c, float[3] x) => (float[3] y)"
    "{ h = Exp (x)  y = If (c) <then_branch = t () => (float[3] p) { a = Neg (h)  p = Abs (a) },"
    " else_branch = e () => (float[3] q) { b = Sqrt (h)  q = Sin (b) }> }"
)


def test_inside_branches(graph):
    before = graph(BRANCHES)
    after = fused(before, ("Neg", "Abs"), ("Sqrt", "Sin"))
    assert [node.op for node in after.nodes()] == ["Exp", "If", "ElementWise_0", "ElementWise_1"]
    for condition in (True, False):
        inputs = {"c": np.array(condition), "x": np.array([-1, 0, 1], np.float32)}
        np.testing.assert_array_equal(after.run(inputs)["y"], before.run(inputs)["y"])


@pytest.mark.parametrize(
    ("text", "operators", "why"),
    [
        ("main (float[3] x) => (float[3] y, float[3] a) { a = Neg (x)  y = Exp (a) }", "Neg Exp", "'a' is an output"),
        (
            "main (float[3] x) => (float[3] y, float[3] z) { a = Neg (x)  y = Exp (a)  z = Sin (a) }",
            "Neg Exp",
            "'a' is used by Sin_z as well",
        ),
        (BRANCHES, "Exp Neg", "is outside the branch or loop that Neg_a is in"),
        (BRANCHES, "Exp If", "has branches or a loop inside"),
        ("main (float[4] x) => (float[2] y, float[2] z) { a = Neg (x)  y, z = Split <num_outputs=2> (a) }", "Neg Split",
         "has 2 outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_fused(graph, text, operators, why):
    model = graph(text)
    assert why in why_not_fuse(Uses(model), named(model, *operators.split()))


def test_a_value_that_a_branch_captures_is_seen(graph):
    model = graph(BRANCHES.replace("h = Exp (x)", "h = Exp (x)  g = Cos (h)").replace("y = If", "k = Tan (g)  y = If"))
    assert why_not_fuse(Uses(model), named(model, "Exp", "Cos")) == "'h' is used by Neg_a as well"
    assert why_not_fuse(Uses(model), named(model, "Cos", "Tan")) == ""


def test_positions_are_those_of_each_scope(graph):
    model = graph(BRANCHES)
    position = positions(model)
    assert [position[id(node)] for node in model.nodes()] == [0, 1, 0, 1, 0, 1]
