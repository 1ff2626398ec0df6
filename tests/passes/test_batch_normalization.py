import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_compile.passes.batch_normalization import BatchNormalization


def parameters(random, channels, dtype=np.float32):
    """Scale, bias, mean and variance, the scale of either sign."""
    return {
        "s": random.normal(size=channels).astype(dtype),
        "b": random.normal(size=channels).astype(dtype),
        "m": random.normal(size=channels).astype(dtype),
        "v": (random.random(channels) + 0.1).astype(dtype),
    }


def model(rewriting, line, x, weight, channels, y, *, bias=None, dtype=np.float32, batch="", seed=0):
    """`a = LINE(x, w, bias)`, then BatchNormalization."""
    random = np.random.default_rng(seed)
    weights = parameters(random, channels, dtype) | {"w": (random.normal(size=weight) / 4).astype(dtype)}
    if bias is not None:
        weights["c"] = random.normal(size=bias).astype(dtype)
    kind = {"float32": "float", "float16": "float16"}[np.dtype(dtype).name]
    given = ", ".join(f"{kind}{list(value.shape)} {name}" for name, value in weights.items())
    return rewriting.graph(
        f"main ({kind}{x} x, {given}) => ({kind}{y} y)"
        f"{{ {line}  y = BatchNormalization <epsilon=0.01{batch}> (a, s, b, m, v) }}",
        weights=weights,
    )


@settings(max_examples=40, deadline=None)
@given(
    group=st.integers(1, 3),
    inside=st.integers(1, 3),
    outside=st.integers(1, 3),
    rank=st.integers(1, 3),
    bias=st.booleans(),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_into_any_convolution(rewriting, group, inside, outside, rank, bias, transposed, seed):
    size = [5, 4, 3][:rank]
    channels = group * outside
    weight = [group * inside, outside] if transposed else [channels, inside]
    change = 1 if transposed else -1
    line = f"a = {'ConvTranspose' if transposed else 'Conv'} <group={group}> (x, w{', c' if bias else ''})"
    graph = model(
        rewriting,
        line,
        [1, group * inside, *size],
        [*weight, *[2] * rank],
        channels,
        [1, channels, *(s + change for s in size)],
        bias=channels if bias else None,
        seed=seed,
    )
    result = rewriting.rewritten(BatchNormalization(), graph)
    assert len(result.gs.nodes) == 1
    assert result.gs.nodes[0].outputs[0].name == "y"


@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (1, 1)])
@pytest.mark.parametrize("attributes", ["transB=0", "transB=1, alpha=0.5", "beta=0.25", "beta=0.0, transA=1"])
def test_into_gemm(rewriting, bias, attributes):
    line = f"a = Gemm <{attributes}> (x, w{'' if bias is None else ', c'})"
    x = [4, 3] if "transA" in attributes else [3, 4]
    graph = model(rewriting, line, x, [5, 4] if "transB=1" in attributes else [4, 5], 5, [3, 5], bias=bias)
    assert rewriting.operators(rewriting.rewritten(BatchNormalization(), graph)) == ["Gemm"]


def test_not_into_gemm_with_a_bias_per_row(rewriting, declines):
    graph = model(rewriting, "a = Gemm (x, w, c)", [3, 4], [4, 5], 5, [3, 5], bias=(3, 1))
    assert declines(BatchNormalization(), graph).refusals == ("Gemm_a: its bias differs from row to row",)


def test_into_matmul_leaves_an_add(rewriting):
    graph = model(rewriting, "a = MatMul (x, w)", [3, 4], [4, 5], 5, [3, 5])
    assert rewriting.operators(rewriting.rewritten(BatchNormalization(), graph)) == ["MatMul", "Add"]


@pytest.mark.parametrize("add", ["Add (p, c)", "Add (c, p)"])
def test_into_matmul_and_its_bias(rewriting, add):
    graph = model(rewriting, f"p = MatMul (x, w)  a = {add}", [3, 4], [4, 5], 5, [3, 5], bias=5)
    assert rewriting.operators(rewriting.rewritten(BatchNormalization(), graph)) == ["MatMul", "Add"]


def test_not_where_the_channels_of_a_matmul_are_others(rewriting, declines):
    graph = model(rewriting, "a = MatMul (x, w)", [2, 3, 4], [4, 3], 3, [2, 3, 3])
    declines(BatchNormalization(), graph)


def test_half_precision_is_rounded_once(rewriting):
    graph = model(rewriting, "a = Conv (x, w, c)", [1, 4, 5], [3, 4, 2], 3, [1, 3, 4], bias=3, dtype=np.float16)
    result = rewriting.rewritten(BatchNormalization(), graph, tolerance=4e-3, special=False)
    (conv,) = result.gs.nodes
    values = {tensor.name: tensor.values.astype(np.float64) for tensor in graph.gs.nodes[1].inputs[1:]}
    factor = values["s"] / np.sqrt(values["v"] + np.float64(np.float32(0.01)))
    weight = graph.gs.nodes[0].inputs[1].values * factor[:, None, None]
    np.testing.assert_array_equal(conv.inputs[1].values, weight.astype(np.float16))


def test_says_which_weight_is_shared(rewriting, declines):
    random = np.random.default_rng(0)
    weights = parameters(random, 3) | {"w": random.normal(size=(3, 3, 1)).astype(np.float32)}
    graph = rewriting.graph(
        "main (float[1,3,4] x, float[3,3,1] w, float[3] s, float[3] b, float[3] m, float[3] v) => (float[1,3,4] y)"
        "{ a = Conv (x, w)  n = BatchNormalization (a, s, b, m, v)  y = Conv (n, w) }",
        weights=weights,
    )
    assert declines(BatchNormalization(), graph).refusals == ("Conv_a: weight is shared with Conv_y",)


def test_a_shared_bias_is_copied(rewriting):
    random = np.random.default_rng(0)
    weights = parameters(random, 3) | {"w": random.normal(size=(3, 3, 1)).astype(np.float32)}
    graph = rewriting.graph(
        "main (float[1,3,4] x, float[3,3,1] w, float[3] s, float[3] b, float[3] m, float[3] v) => (float[1,3,4] y)"
        "<float[3,3,1] u = {1,2,3,4,5,6,7,8,9}>"
        "{ a = Conv (x, w, b)  n = BatchNormalization (a, s, b, m, v)  y = Conv (n, u, b) }",
        weights=weights,
    )
    assert rewriting.operators(rewriting.rewritten(BatchNormalization(), graph)) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("outputs", "more", "why"),
    [
        ("float[1,3,4] y, float[1,3,4] a", "", "'a' is an output as well"),
        ("float[1,3,4] y, float[1,3,4] z", "z = Relu (a)", "'a' is used by Relu_z as well"),
        (
            "float[1,3,4] y, float[1,3,4] z",
            "z = If (t) <then_branch = yes () => (float[1,3,4] p) { p = Relu (a) },"
            " else_branch = no () => (float[1,3,4] q) { q = Neg (x) }>",
            "'a' is used by Relu_p as well",
        ),
    ],
)
def test_the_value_in_between_is_needed(rewriting, declines, outputs, more, why):
    random = np.random.default_rng(0)
    weights = parameters(random, 3) | {"w": random.normal(size=(3, 3, 1)).astype(np.float32)}
    graph = rewriting.graph(
        "main (bool t, float[1,3,4] x, float[3,3,1] w, float[3] s, float[3] b, float[3] m, float[3] v)"
        f"=> ({outputs}) {{ a = Conv (x, w)  y = BatchNormalization (a, s, b, m, v)  {more} }}",
        weights=weights,
    )
    (refusal,) = declines(BatchNormalization(), graph).refusals
    assert why in refusal


def branches(then, outer):
    return (
        "main (bool t, float[1,3,4] x, float[3,3,1] w, float[3] s, float[3] b, float[3] m, float[3] v)"
        f"=> (float[1,3,4] y) {{ {outer} y = If (t) <"
        f"then_branch = yes () => (float[1,3,4] p) {{ {then} p = BatchNormalization (a, s, b, m, v) }},"
        "else_branch = no () => (float[1,3,4] q) { q = Neg (x) }> }"
    )


def test_inside_a_branch_with_weights_from_outside(rewriting):
    random = np.random.default_rng(0)
    weights = parameters(random, 3) | {"w": random.normal(size=(3, 3, 1)).astype(np.float32)}
    graph = rewriting.graph(branches("a = Conv (x, w)", ""), weights=weights)
    assert rewriting.operators(rewriting.rewritten(BatchNormalization(), graph)) == ["If", "Conv", "Neg"]


def test_does_not_move_work_between_scopes(rewriting, declines):
    random = np.random.default_rng(0)
    weights = parameters(random, 3) | {"w": random.normal(size=(3, 3, 1)).astype(np.float32)}
    graph = rewriting.graph(branches("", "a = Conv (x, w)"), weights=weights)
    assert "outside the branch or loop" in declines(BatchNormalization(), graph).refusals[0]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("v", -1, "its scale or shift is not finite"),
        ("s", 1e38, "would not be finite in float32"),
        ("s", 1e-38, "too small for float32"),
    ],
)
def test_weights_that_the_type_cannot_hold(rewriting, declines, name, value, why):
    graph = model(rewriting, "a = Conv (x, w)", [1, 3, 4], [2, 3, 1], 2, [1, 2, 4])
    for tensor in graph.gs.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.name in (name, "w"):
            tensor.values = np.full_like(tensor.values, value if tensor.name == name else 100 if value > 1 else 0.1)
    assert why in declines(BatchNormalization(), graph).refusals[0]


def test_training_mode(rewriting, declines):
    weights = parameters(np.random.default_rng(0), 3) | {"w": np.ones((3, 3, 1), np.float32)}
    graph = rewriting.graph(
        "main (float[1,3,4] x, float[3,3,1] w, float[3] s, float[3] b, float[3] m, float[3] v) => (float[1,3,4] y)"
        "{ a = Conv (x, w)  y, mean, variance = BatchNormalization <training_mode=1> (a, s, b, m, v) }",
        weights=weights,
    )
    assert "it is in training mode" in declines(BatchNormalization(), graph).refusals[0]


def test_parameters_that_are_not_constant(rewriting, declines):
    graph = rewriting.graph(
        "main (float[1,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v, float[3,3,1] w) => (float[1,3,4] y)"
        "{ a = Conv (x, w)  y = BatchNormalization (a, s, b, m, v) }"
    )
    assert "not all constants" in declines(BatchNormalization(), graph).refusals[0]
