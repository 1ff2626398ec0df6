import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_compile.passes.affine_folding import AffineFolding

CHANNELS = "float[1,3,1,1] k = {2,-3,0.5}, float[3,1,1] t = {0.25,-1,4}, float r = {1.5}, float[3] last = {1,2,3}"


def convolution(rewriting, lines, y="float[1,3,4,3] y"):
    weights = {"w": np.random.default_rng(0).normal(size=(3, 2, 1, 1)).astype(np.float32)}
    return rewriting.graph(
        f"main (float[1,2,4,3] x, float[3,2,1,1] w) => ({y}) <{CHANNELS}> {{ a = Conv (x, w)  {lines} }}",
        weights=weights,
    )


@pytest.mark.parametrize(
    "line",
    [
        "y = Mul (a, k)",
        "y = Mul (r, a)",
        "y = Div (a, k)",
        "y = Add (t, a)",
        "y = Sub (a, t)",
        "y = Sub (t, a)",
        "b = Mul (a, k)  c = Add (b, t)  d = Sub (r, c)  y = Div (d, r)",
    ],
)
def test_into_convolution(rewriting, line):
    result = rewriting.rewritten(AffineFolding(), convolution(rewriting, line), special="Div" not in line)
    assert rewriting.operators(result) == ["Conv"]


@pytest.mark.parametrize("line", ["y = Div (k, a)", "y = Add (a, last)", "y = Mul (a, a)", "y = Max (a, k)"])
def test_not_per_channel_arithmetic(rewriting, declines, line):
    declines(AffineFolding(), convolution(rewriting, line))


def test_activations_that_read_it_several_times_stay(rewriting, declines):
    graph = convolution(rewriting, "b = Add (a, r)  c = Relu (b)  y = Mul (a, c)")
    assert declines(AffineFolding(), graph).refusals == ()


def test_division_by_zero_stays(rewriting, declines):
    graph = convolution(rewriting, "z = Sub (r, r)  y = Mul (a, r)")
    graph.gs.nodes[2].inputs[1].values = np.float32(np.inf)
    assert "not finite" in declines(AffineFolding(), graph).refusals[0]


def matmul(rewriting, lines, weight="float[4,3] w", y="float[2,5,3] y"):
    shape = [int(size) for size in weight[weight.index("[") + 1 : weight.index("]")].split(",")]
    weights = {"w": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    return rewriting.graph(
        f"main (float[2,5,4] x, {weight}) => ({y}) <{CHANNELS}, float[5,1] rows = {{1,2,3,4,5}}> {{ {lines} }}",
        weights=weights,
    )


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("a = MatMul (x, w)  y = Mul (a, last)", ["MatMul"]),
        ("a = MatMul (x, w)  y = Div (a, r)", ["MatMul"]),
        ("a = MatMul (x, w)  b = Add (last, a)  y = Mul (b, last)", ["MatMul", "Add"]),
        ("a = MatMul (x, w)  b = Add (a, last)  y = Sub (r, b)", ["MatMul", "Add"]),
    ],
)
def test_into_matmul(rewriting, lines, left):
    assert rewriting.operators(rewriting.rewritten(AffineFolding(), matmul(rewriting, lines))) == left


@pytest.mark.parametrize(
    "lines",
    [
        "a = MatMul (x, w)  y = Add (a, last)",  # a bias needs the Add
        "a = MatMul (x, w)  y = Mul (a, rows)",
        "a = MatMul (x, w)  b = Add (a, rows)  y = Mul (b, last)",
    ],
)
def test_not_into_matmul(rewriting, declines, lines):
    declines(AffineFolding(), matmul(rewriting, lines))


def test_broadcasting_that_makes_the_output_larger_stays(rewriting, declines):
    graph = rewriting.graph(
        "main (float[1,1,4] x, float[1,1,1] w) => (float[1,3,4] y) <float[3,1] k = {1,2,3}>"
        "{ a = Conv (x, w)  y = Mul (a, k) }",
        weights={"w": np.ones((1, 1, 1), np.float32)},
    )
    declines(AffineFolding(), graph)


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["Mul k", "Add t", "Sub t", "Mul r", "Add r"]), min_size=1, max_size=4),
    before=st.sampled_from(["BatchNormalization (x, s, b, m, v)", "InstanceNormalization (x, s, b)"]),
)
def test_into_normalisations(rewriting, steps, before):
    names = ["a", *(f"b{i}" for i in range(len(steps) - 1)), "y"]
    lines = "  ".join(
        f"{names[i + 1]} = {step.split()[0]} ({names[i]}, {step.split()[1]})" for i, step in enumerate(steps)
    )
    graph = rewriting.graph(
        f"main (float[1,3,4,3] x) => (float[1,3,4,3] y) <{CHANNELS}, float[3] s = {{1,2,-1}}, float[3] b = {{0,1,2}},"
        f"float[3] m = {{0.5,0,1}}, float[3] v = {{1,2,3}}> {{ a = {before}  {lines} }}"
    )
    result = rewriting.rewritten(AffineFolding(), graph, special=False)
    assert rewriting.operators(result) == [before.split()[0]]


def test_a_normalisation_that_shares_its_parameters_gets_its_own(rewriting):
    graph = rewriting.graph(
        f"main (float[1,3,4,3] x) => (float[1,3,4,3] y) <{CHANNELS}, float[3] s = {{1,2,-1}}>"
        "{ a = InstanceNormalization (x, s, s)  b = Mul (a, k)  y = InstanceNormalization (b, s, s) }"
    )
    result = rewriting.rewritten(AffineFolding(), graph, special=False)
    assert rewriting.operators(result) == ["InstanceNormalization"] * 2
