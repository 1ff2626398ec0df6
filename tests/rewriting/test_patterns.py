import numpy as np

from lepton_compile.rewriting.patterns import (
    Uses,
    constant,
    operand,
    producer,
    same_type,
    scopes,
    static_shape,
    summary,
)

MODEL = """
main (bool c, float[3] x) => (float[3] y) <float[3] w = {1,2,3}> {
    outer = Exp (x)
    y = If (c) <
        then_branch = yes () => (float[3] p) { inner = Mul (outer, w)  p = Neg (inner) },
        else_branch = no () => (float[3] q) { q = Abs (x) }
    >
}"""


def named(graph, name):
    return next(node for node in graph.nodes() if node.name == name)


def test_scopes_and_uses(graph):
    parsed = graph(MODEL)
    assert [scope.name for scope in scopes(parsed)] == ["main", "yes", "no"]
    uses = Uses(parsed)
    multiply, negate = named(parsed, "Mul_inner"), named(parsed, "Neg_p")
    assert uses.scope(multiply).name == "yes"
    assert uses.is_output(negate.outputs[0]) and not uses.is_output(multiply.outputs[0])
    assert uses.other_use(multiply.outputs[0], negate) == ""
    assert "outside the branch" in uses.other_use(named(parsed, "Exp_outer").outputs[0], multiply)
    assert uses.fresh_name("outer") == "outer_1" and uses.fresh_name("outer") == "outer_2"
    assert uses.fresh_name("new") == "new"


def test_reading_tensors(graph):
    parsed = graph(MODEL)
    multiply = named(parsed, "Mul_inner")
    np.testing.assert_array_equal(constant(multiply.inputs[1]), [1, 2, 3])
    assert constant(multiply.inputs[0]) is None and constant(None) is None
    assert producer(multiply.inputs[0]) is named(parsed, "Exp_outer") and producer(multiply.inputs[1]) is None
    assert operand(multiply, 2) is None and operand(multiply, 1) is multiply.inputs[1]
    assert static_shape(multiply.inputs[0]) == (3,) and same_type(multiply.inputs[0], multiply.outputs[0])


def test_reading_twice_is_another_use(graph):
    parsed = graph("main (float[3] x) => (float[3] y) { a = Exp (x)  y = Mul (a, a) }")
    multiply = named(parsed, "Mul_y")
    assert "read twice" in Uses(parsed).other_use(multiply.inputs[0], multiply)


def test_insert_after_keeps_the_order(graph):
    parsed = graph("main (float[3] x) => (float[3] y) { a = Exp (x)  y = Neg (a) }")
    uses = Uses(parsed)
    copy = named(parsed, "Exp_a").copy()
    copy.name = "new"
    uses.insert_after(named(parsed, "Exp_a"), copy)
    assert [node.name for node in parsed.gs.nodes] == ["Exp_a", "new", "Neg_y"]
    assert uses.scope(copy) is parsed.gs


def test_summary():
    assert summary(["a", "b"]) == "a, b"
    assert summary(list("abcdef"), limit=2) == "a, b and 4 more"
