import pytest
from lepton_compile.passes.elementwise_fusion import ElementWiseFusion
from lepton_compile.passes.silu import SiLU

from lepton_compile.rewriting.elementwise import MAXIMUM_NODES
from lepton_compile.rewriting.quantization import BFLOAT16


def model(rewriting, body, outputs="float[3,4] y"):
    return rewriting.graph(
        f"main (float[3,4] x, float[3,4] z, float[4] r, float[3,1] s, int32[3,4] n) => ({outputs})"
        f"<float zero = {{0}}, float six = {{6}}, int64[1] last = {{-1}}, float[4] g = {{1, 2, 3, 4}}> {{ {body} }}"
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = Exp (x)  y = Neg (a)",
        "a = Add (x, r)  b = Mul (s, a)  c = Clip (b, zero, )  y = Max (c, z, six)",
        "a = Sin (x)  b = Cos (x)  c = Mul (a, b)  d = Mul (a, c)  y = Sub (d, z)",
        "a = Cast <to=1> (n)  b = Greater (a, x)  c = Not (b)  y = Where (c, a, z)",
        "a = Mul (x, x)  b = Mul (a, a)  y = Mul (b, b)",
        "a = BatchNormalization (x, g, g, g, g)  y = Relu (a)",
    ],
)
def test_becomes_one(rewriting, body):
    graph = model(rewriting, body)
    result = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == ["ElementWise_0"]
    assert len(result.gs.functions[0].nodes) == len(graph.gs.nodes)


@pytest.mark.parametrize(
    ("body", "outputs", "operators", "refusals"),
    [
        # A value with two consumers is computed once, and stored.
        ("a = Exp (x)  b = Neg (a)  c = Sin (b)  d = Cos (b)  e = Abs (c)  f = Sqrt (d)",
         "float[3,4] e, float[3,4] f", ["ElementWise_0", "ElementWise_1", "ElementWise_2"],
         ("Neg_b: 'b' is used by Sin_c as well",)),
        ("a = Exp (x)  y = Neg (a)", "float[3,4] y, float[3,4] a", ["Exp", "Neg"],
         ("Exp_a: 'a' is an output as well",)),
        # A smaller value is not computed over and over.
        ("a = Exp (s)  b = Neg (a)  c = Mul (x, b)  y = Abs (c)", "float[3,4] y", ["ElementWise_0", "ElementWise_1"],
         ("Neg_b: 'b' is broadcast on the way to Abs_y",)),
        ("a = Exp (x)  b = ReduceMax (a, last)  c = Sub (a, b)  y = Neg (c)", "float[3,4] y",
         ["Exp", "ReduceMax", "ElementWise_0"], ("Exp_a: 'a' is used by ReduceMax_b as well",)),
        # No path leaves the region and comes back.
        ("a = Exp (x)  b = Neg (a)  c = Transpose (z)  d = MatMul (a, c)  e = ReduceMax (d, last)  y = Mul (b, e)",
         "float[3,4] y", ["Exp", "Transpose", "MatMul", "ReduceMax", "ElementWise_0"],
         ("Exp_a: 'a' is used by MatMul_d as well",)),
    ],
)  # fmt: skip
def test_ends(rewriting, declines, body, outputs, operators, refusals):
    graph = model(rewriting, body, outputs)
    if "ElementWise_0" not in operators:
        assert declines(ElementWiseFusion(), graph).refusals == refusals
        return
    assert rewriting.proposal(ElementWiseFusion(), graph).refusals == refusals
    result = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == operators


def test_a_recognised_activation_goes_in(rewriting):
    graph = model(rewriting, "a = Neg (x)  b = Sigmoid (a)  c = Mul (a, b)  y = Add (c, z)")
    graph = rewriting.rewritten(SiLU(), graph, tolerance=0)
    result = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert [node.op for node in result.gs.functions[1].nodes] == ["Neg", "SiLU_0", "Add"]


def test_a_single_operator_is_left_alone(rewriting, declines):
    assert not declines(ElementWiseFusion(), model(rewriting, "y = Exp (x)")).refusals


def test_long_chains_are_cut(rewriting):
    length = 2 * MAXIMUM_NODES + 10
    body = "a0 = Neg (x)  " + " ".join(f"a{i} = Neg (a{i - 1})" for i in range(1, length)) + f" y = Abs (a{length - 1})"
    result = rewriting.rewritten(ElementWiseFusion(), model(rewriting, body), tolerance=0)
    assert [len(function.nodes) for function in result.gs.functions] == [11, MAXIMUM_NODES, MAXIMUM_NODES]


def test_inside_branches(rewriting):
    graph = rewriting.graph(
        "main (bool k, float[3] x) => (float[3] y) { h = Exp (x)  i = Neg (h)"
        "  y = If (k) <then_branch = t () => (float[3] p) { a = Abs (i)  p = Sqrt (a) },"
        " else_branch = e () => (float[3] q) { q = Sin (x) }> }"
    )
    result = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == ["ElementWise_0", "If", "ElementWise_1", "Sin"]


def test_what_lies_between_two_regions_is_bfloat16(rewriting):
    """A region ends where it rounds, and begins where it widens."""
    graph = model(rewriting, "a = Exp (x)  b = Cast <to = 16> (a)  c = Cast <to = 1> (b)  y = Neg (c)")
    result = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == ["ElementWise_0", "ElementWise_1"]
    first, second = result.gs.nodes
    assert first.outputs[0] is second.inputs[0]
    assert first.outputs[0].dtype == BFLOAT16
