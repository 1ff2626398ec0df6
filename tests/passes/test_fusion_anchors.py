import numpy as np
import pytest
from lepton_compile.passes.convolution_fusion import ConvolutionFusion
from lepton_compile.passes.matmul_fusion import MatMulFusion
from lepton_compile.passes.silu import SiLU

from lepton_compile.rewriting import Decline, Proposal

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": RANDOM.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "b": RANDOM.normal(size=4).astype(np.float32),
    "c": RANDOM.normal(size=(4, 1, 1)).astype(np.float32),
    "m": RANDOM.normal(size=(6, 6)).astype(np.float32),
}
CONV = "Conv <pads=[1,1,1,1]>"


def model(rewriting, body, outputs=""):
    inputs = "float[1,4,6,6] x, float[1,4,6,6] z, float[4,4,3,3] w, float[4] b, float[4,1,1] c, float[6,6] m"
    numbers = "<float zero = {0}, float six = {6}, float slope = {0.1}>"
    return rewriting.graph(f"main ({inputs}) => (float[1,4,6,6] y{outputs}) {numbers} {{ {body} }}", WEIGHTS)


def bodies(graph):
    return {function.name: [node.op for node in function.nodes] for function in graph.gs.functions}


@pytest.mark.parametrize(
    "epilogue",
    [
        "y = Relu (a)",
        "y = LeakyRelu <alpha=0.1> (a)",
        "y = Clip (a, zero, six)",
        "y = HardSigmoid (a)",
        "y = PRelu (a, c)",
        "d = Mul (a, c)  e = Add (c, d)  y = Elu (e)",
        "d = Add (a, z)  y = Relu (d)",
        "d = Relu (a)  y = Add (z, d)",
        "d = Sub (z, a)  e = Div (d, six)  y = Tanh (e)",
        "d = Sigmoid (a)  y = Mul (a, d)",
    ],
)
@pytest.mark.parametrize(
    ("rewrite", "anchor"),
    [
        (ConvolutionFusion(), f"a = {CONV} (x, w, b)"),
        (ConvolutionFusion(), "a = ConvTranspose <pads=[1,1,1,1]> (x, w)"),
        (MatMulFusion(), "a = MatMul (x, m)"),
    ],
)
def test_epilogues(rewriting, rewrite, anchor, epilogue):
    graph = model(rewriting, f"{anchor}  {epilogue}")
    result = rewriting.rewritten(rewrite, graph, tolerance=0)
    assert rewriting.operators(result) == [f"{rewrite.kind}_0"]
    assert result.gs.nodes[0].name == graph.gs.nodes[0].name
    assert bodies(result) == {f"{rewrite.kind}_0": [node.op for node in graph.gs.nodes]}


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        (f"g = Gather <axis=1> (x, o)  a = {CONV} (g, w, b)  y = Relu (a)", ["Convolution_0"]),
        (f"g = Gather <axis=1> (x, o)  y = {CONV} (g, w)", ["Convolution_0"]),
        (f"g = Gather <axis=2> (x, r)  y = {CONV} (g, w)", ["Gather", "Conv"]),
        (f"g = Gather <axis=1> (x, o)  a = {CONV} (g, w)  y = Add (a, g)", ["Gather", "Convolution_0"]),
        ("g = Gather <axis=1> (x, o)  y = Conv <group=4, kernel_shape=[1,1]> (g, d)", ["Gather", "Conv"]),
    ],
)
def test_a_gather_of_channels_is_an_order_of_reading(rewriting, body, operators):
    graph = rewriting.graph(
        "main (float[1,4,6,6] x, float[4,4,3,3] w, float[4] b, float[4,1,1,1] d) => (float[1,4,6,6] y) "
        f"<int64[4] o = {{2,0,3,1}}, int64[6] r = {{5,4,3,2,1,0}}> {{ {body} }}",
        {"w": WEIGHTS["w"], "b": WEIGHTS["b"], "d": WEIGHTS["w"][:, :1, :1, :1].copy()},
    )
    if operators == ["Gather", "Conv"]:
        assert isinstance(rewriting.proposal(ConvolutionFusion(), graph), Decline)
    else:
        assert rewriting.operators(rewriting.rewritten(ConvolutionFusion(), graph, tolerance=0)) == operators


def test_gemm_with_an_activation(rewriting):
    graph = rewriting.graph("main (float[2,6] x, float[6,6] m) => (float[2,6] y) { a = Gemm (x, m)  y = Relu (a) }")
    assert rewriting.operators(rewriting.rewritten(MatMulFusion(), graph, tolerance=0)) == ["MatMul_0"]


def test_a_recognised_activation_goes_in(rewriting):
    graph = model(rewriting, f"a = {CONV} (x, w, b)  s = Sigmoid (a)  d = Mul (a, s)  y = Add (d, x)")
    graph = rewriting.rewritten(SiLU(), graph, tolerance=0)
    result = rewriting.rewritten(ConvolutionFusion(), graph, tolerance=0)
    assert bodies(result) == {"SiLU_0": ["Sigmoid", "Mul"], "Convolution_0": ["Conv", "SiLU_0", "Add"]}


def test_the_last_of_two_convolutions_takes_their_sum(rewriting):
    graph = model(rewriting, f"a = {CONV} (x, w)  d = {CONV} (z, w, b)  e = Add (a, d)  y = Relu (e)")
    result = rewriting.rewritten(ConvolutionFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == ["Conv", "Convolution_0"]
    assert [tensor.name for tensor in result.gs.nodes[1].inputs] == ["z", "w", "a"]


def test_a_residual_chain(rewriting):
    """Each block ends at the value that the next one adds again."""
    body = f"r0 = {CONV} (x, w)  s0 = Relu (r0)  "
    for i in range(3):
        body += f"a{i} = {CONV} (s{i}, w)  d{i} = Relu (a{i})  e{i} = {CONV} (d{i}, w)  r{i + 1} = Add (e{i}, s{i})"
        body += f"  s{i + 1} = Relu (r{i + 1})  "
    result = rewriting.rewritten(ConvolutionFusion(), model(rewriting, body + "y = Neg (s3)  "), tolerance=0)
    assert rewriting.operators(result) == [f"Convolution_{i}" for i in range(7)]
    assert list(bodies(result).values()) == [["Conv", "Relu"]] + [["Conv", "Relu"], ["Conv", "Add", "Relu"]] * 2 + [
        ["Conv", "Relu"],
        ["Conv", "Add", "Relu", "Neg"],
    ]


def test_squeeze_and_excite(rewriting):
    """What is pooled and then multiplied ends its convolution; the gate goes with the one that computes it."""
    weights = {"k": RANDOM.normal(size=(4, 4, 1, 1)).astype(np.float32), **WEIGHTS}
    graph = rewriting.graph(
        "main (float[1,4,6,6] x, float[4,4,3,3] w, float[4,4,1,1] k, float[4] b, float[4,1,1] c, float[6,6] m)"
        f" => (float[1,4,6,6] y) {{ a = {CONV} (x, w, b)  d = Relu (a)  p = GlobalAveragePool (d)  q = Conv (p, k)"
        "  r = Relu (q)  s = Conv (r, k, b)  t = HardSigmoid (s)  y = Mul (d, t) }",
        weights,
    )
    result = rewriting.rewritten(ConvolutionFusion(), graph, tolerance=0)
    assert rewriting.operators(result) == [
        "Convolution_0",
        "GlobalAveragePool",
        "Convolution_1",
        "Convolution_2",
        "Mul",
    ]
    refusals = rewriting.proposal(ConvolutionFusion(), graph).refusals
    assert refusals == (
        "Conv_a: 'd' is used by GlobalAveragePool_p (GlobalAveragePool) as well",
        "Conv_s: Mul_y broadcasts 't' to another shape",
    )


def test_a_value_that_comes_later_can_be_added(rewriting):
    """The call takes the place of the last node, so that all it reads is known."""
    body = f"a = {CONV} (x, w)  d = Transpose <perm=[0,1,3,2]> (z)  e = Exp (d)  y = Add (a, e)"
    result = rewriting.rewritten(ConvolutionFusion(), model(rewriting, body), tolerance=0)
    assert rewriting.operators(result) == ["Transpose", "Exp", "Convolution_0"]


@pytest.mark.parametrize(
    ("body", "outputs", "why"),
    [
        ("y = Relu (a)", ", float[1,4,6,6] a", "Conv_a: 'a' is an output as well"),
        (
            "d = ReduceMax <keepdims=0> (a)  y = Add (a, d)",
            "",
            "Conv_a: 'a' is used by ReduceMax_d (ReduceMax) as well",
        ),
    ],
)
def test_what_cannot_be_fused(rewriting, declines, body, outputs, why):
    assert declines(ConvolutionFusion(), model(rewriting, f"a = {CONV} (x, w)  {body}", outputs)).refusals == (why,)


def test_nothing_behind_is_no_refusal(rewriting, declines):
    body = f"a = {CONV} (x, w)  y = Transpose <perm=[0,1,3,2]> (a)"
    assert not declines(ConvolutionFusion(), model(rewriting, body)).refusals


def test_inside_branches(rewriting):
    graph = rewriting.graph(
        "main (bool k, float[1,4,6,6] x, float[4,4,3,3] w) => (float[1,4,6,6] y) { h = Exp (x)"
        f"  y = If (k) <then_branch = t () => (float[1,4,6,6] p) {{ a = {CONV} (h, w)  d = Add (a, h)  p = Relu (d) }},"
        f" else_branch = e () => (float[1,4,6,6] q) {{ f = {CONV} (x, w)  g = Neg (f)  q = MatMul (g, h) }}> }}",
        {"w": WEIGHTS["w"]},
    )
    result = rewriting.rewritten(ConvolutionFusion(), graph, tolerance=1e-6)
    assert rewriting.operators(result) == ["Exp", "If", "Convolution_0", "Convolution_1", "MatMul"]
    assert isinstance(rewriting.proposal(ConvolutionFusion(), graph), Proposal)
