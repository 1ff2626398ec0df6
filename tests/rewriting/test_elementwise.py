import pytest

from lepton_compile.rewriting.elementwise import MAXIMUM_NODES, chain_behind, is_elementwise
from lepton_compile.rewriting.patterns import Uses
from lepton_compile.rewriting.regions import positions, why_not_fuse


@pytest.fixture
def behind(graph):
    """The operators behind the first MatMul of `body`, and the refusals."""

    def chain(body, outputs="float[2,2] y", taken=()):
        model = graph(
            f"main (float[2,2] x, float[2,2] z, float[2,1] s, bool p) => ({outputs}) <float c = {{2}}> {{ {body} }}"
        )
        uses = Uses(model)
        anchor = next(node for node in model.gs.nodes if node.op == "MatMul")
        others = {id(node) for node in model.gs.nodes if node.op in taken}
        found = chain_behind(anchor, uses, positions(model), others)
        assert found.nodes[0] is anchor
        assert why_not_fuse(uses, found.nodes) == ""
        return [node.op for node in found.nodes[1:]], found.refusals

    return chain


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = MatMul (x, z)  b = Relu (a)  d = Add (z, b)  e = Clip (d, , c)  y = Mul (e, s)", "Relu Add Clip Mul"),
        ("a = MatMul (x, z)  b = Sigmoid (a)  y = Mul (a, b)", "Sigmoid Mul"),
        ("a = MatMul (x, z)  b = Sin (a)  d = Cos (a)  e = Mul (b, d)  y = Sub (e, a)", "Sin Cos Mul Sub"),
        ("a = MatMul (x, z)  b = Greater (a, c)  d = Where (b, a, z)  y = Cast <to=1> (d)", "Greater Where Cast"),
        ("a = MatMul (x, z)  b = Mul (a, a)  y = Transpose (b)", "Mul"),
        ("a = MatMul (x, z)  y = Transpose (a)", ""),
    ],
)  # fmt: skip
def test_chains(behind, body, expected):
    assert behind(body) == (expected.split(), [])


@pytest.mark.parametrize(
    ("body", "outputs", "expected", "why"),
    [
        ("a = MatMul (x, z)  b = Relu (a)  y = Exp (b)", "float[2,2] y, float[2,2] b", "Relu", "'b' is an output"),
        ("a = MatMul (x, z)  b = Relu (a)  d = Transpose (b)  y = Add (b, d)", "float[2,2] y", "Relu",
         "'b' is used by Transpose_d (Transpose) as well"),
        ("a = MatMul (x, s)  b = Relu (a)  y = Add (b, z)", "float[2,2] y", "Relu",
         "Add_y broadcasts 'b' to another shape"),
        ("a = MatMul (x, z)  b = Sin (a)  d = Cos (a)  e = Tan (b)  y = Transpose (d)", "float[2,2] y, float[2,2] e",
         "", "'d' is used by Transpose_y (Transpose) as well"),
        ("a = MatMul (x, z)  b = Exp (a)  d = If (p) <then_branch = t () => (float[2,2] q) { q = Neg (b) },"
         " else_branch = e () => (float[2,2] r) { r = Abs (z) }>  y = Add (b, d)", "float[2,2] y", "Exp",
         "'b' is used inside a branch or loop as well, by Neg_q"),
    ],
)  # fmt: skip
def test_ends_with_a_reason(behind, body, outputs, expected, why):
    operators, refusals = behind(body, outputs)
    assert operators == expected.split()
    (refusal,) = refusals
    assert why in refusal


def test_ends_where_another_region_begins(behind):
    assert behind("a = MatMul (x, z)  b = Exp (a)  y = Add (b, z)", taken=("Add",)) == (
        ["Exp"],
        ["MatMul_a: Add_y is computed with the other operand's kernel"],
    )


def test_long_chains_are_cut(behind):
    body = (
        "a = MatMul (x, z)  b0 = Neg (a) " + " ".join(f"b{i + 1} = Neg (b{i})" for i in range(100)) + " y = Neg (b100)"
    )
    operators, _ = behind(body)
    assert len(operators) == MAXIMUM_NODES - 1


def test_text_and_training_are_not_elementwise(graph):
    model = graph(
        "main (float[1,2,3] x, string[3] t, string[3] u, float[2] m) => (bool[3] y, float[1,2,3] z)"
        "<float[2] w = {1, 2}> { y = Equal (t, u)  z = BatchNormalization (x, w, w, w, m) }"
    )
    assert not any(is_elementwise(node) for node in model.gs.nodes)
    model.gs.nodes[1].inputs[4] = model.gs.nodes[1].inputs[1]
    assert is_elementwise(model.gs.nodes[1])
    model.gs.nodes[1].attrs["training_mode"] = 1
    assert not is_elementwise(model.gs.nodes[1])
