import numpy as np
import pytest
from lepton_compile.passes.gelu import Gelu
from lepton_compile.passes.hard_swish import HardSwish
from lepton_compile.passes.silu import SiLU

NUMBERS = {
    "zero": 0, "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6, "sixth": 1 / 6, "twelfth": 0.5 / 6,
    "root2": 1.41421356, "root_half": 0.70710678, "tanh_scale": 0.7978846, "cubic": 0.044715, "both": 0.0356774,
}  # fmt: skip
CONSTANTS = ", ".join(f"float {name} = {{{value:.8f}}}" for name, value in NUMBERS.items())

SILU = ["s = Sigmoid (x)  y = Mul (x, s)", "s = Sigmoid (x)  y = Mul (s, x)"]
GELU = [
    # PyTorch
    "a = Div (x, root2)  b = Erf (a)  c = Add (b, one)  d = Mul (x, c)  y = Mul (d, half)",
    # TensorFlow
    "a = Mul (x, root_half)  b = Erf (a)  c = Add (one, b)  d = Mul (half, c)  y = Mul (x, d)",
    "a = Mul (root_half, x)  b = Erf (a)  c = Add (b, one)  d = Mul (half, x)  y = Mul (d, c)",
    "a = Mul (x, root_half)  b = Erf (a)  c = Mul (b, half)  d = Add (c, half)  y = Mul (d, x)",
    "a = Div (x, root2)  b = Erf (a)  c = Add (b, one)  d = Mul (c, x)  y = Div (d, two)",
    # GPT-2
    "a = Pow (x, three)  b = Mul (a, cubic)  c = Add (x, b)  d = Mul (c, tanh_scale)  e = Tanh (d)"
    "f = Add (e, one)  g = Mul (x, half)  y = Mul (g, f)",
    "a = Mul (x, x)  b = Mul (a, x)  c = Mul (cubic, b)  d = Add (c, x)  e = Mul (tanh_scale, d)  f = Tanh (e)"
    "g = Add (one, f)  h = Mul (half, g)  y = Mul (h, x)",
    # "gelu_fast"
    "a = Mul (x, cubic)  b = Mul (a, x)  c = Add (one, b)  d = Mul (x, tanh_scale)  e = Mul (d, c)  f = Tanh (e)"
    "g = Add (f, one)  h = Mul (x, g)  y = Mul (half, h)",
    "a = Pow (x, three)  b = Mul (a, both)  c = Mul (x, tanh_scale)  d = Add (b, c)  e = Tanh (d)  f = Add (e, one)"
    "g = Mul (f, half)  y = Mul (g, x)",
]
HARD_SWISH = [
    # PP-OCR
    "a = Add (x, three)  b = Clip (a, zero, six)  c = Mul (x, b)  y = Div (c, six)",
    "a = Add (three, x)  b = Clip (a, zero, six)  c = Div (b, six)  y = Mul (c, x)",
    "a = Add (x, three)  b = Clip (a, zero, six)  c = Mul (b, sixth)  y = Mul (x, c)",
    "a = Add (x, three)  b = Clip (a, zero, six)  c = Mul (x, sixth)  y = Mul (c, b)",
    "a = Add (x, three)  b = Max (a, zero)  c = Min (b, six)  d = Mul (x, c)  y = Mul (d, sixth)",
    "a = Add (x, three)  b = Min (six, a)  c = Max (zero, b)  d = Mul (x, c)  y = Mul (d, sixth)",
    "a = Mul (x, sixth)  b = Add (a, half)  c = Clip (b, zero, one)  y = Mul (c, x)",
    "a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (x, a)",
]


def model(rewriting, body, outputs="float[2,3,4] y"):
    """`body` on x = Sin(v), with what comes behind it, so that it is neither first nor last."""
    outputs = f"float[2,3,4] last, {outputs}".removesuffix(", float[2,3,4] y")
    text = f"main (float[2,3,4] v) => ({outputs}) <{CONSTANTS}> {{ x = Sin (v)  {body}  last = Neg (y) }}"
    return rewriting.graph(text)


CASES = (
    [(SiLU(), body) for body in SILU] + [(Gelu(), body) for body in GELU] + [(HardSwish(), body) for body in HARD_SWISH]
)


@pytest.mark.parametrize(("rewrite", "body"), CASES)
def test_spellings(rewriting, rewrite, body):
    graph = model(rewriting, body)
    result = rewriting.rewritten(rewrite, graph, tolerance=0)
    assert rewriting.operators(result) == ["Sin", f"{rewrite.kind}_0", "Neg"]
    call = result.gs.nodes[1]
    assert [tensor.name for tensor in (*call.inputs, *call.outputs)] == ["x", "y"]
    assert call.name == graph.gs.nodes[-2].name


@pytest.mark.parametrize("rewrite", [SiLU(), Gelu(), HardSwish()])
def test_only_its_own(rewriting, declines, rewrite):
    for other, body in CASES:
        if other.kind != rewrite.kind:
            assert not declines(rewrite, model(rewriting, body)).refusals


@pytest.mark.parametrize(
    ("rewrite", "body", "old", "new"),
    [
        (SiLU(), SILU[0], "Sigmoid (x)", "Sigmoid (v)"),
        (SiLU(), SILU[0], "Mul (x, s)", "Mul (v, s)"),
        (Gelu(), GELU[0], "root2", "two"),
        (Gelu(), GELU[0], "Add (b, one)", "Sub (b, one)"),
        (Gelu(), GELU[0], "Div (x, root2)", "Div (v, root2)"),
        (Gelu(), GELU[5], "three", "two"),
        (Gelu(), GELU[5], "cubic", "half"),
        (HardSwish(), HARD_SWISH[0], "Add (x, three)", "Add (x, two)"),
        (HardSwish(), HARD_SWISH[0], "Add (x, three)", "Add (v, three)"),
        (HardSwish(), HARD_SWISH[0], "Div (c, six)", "Div (c, three)"),
        (HardSwish(), HARD_SWISH[0], "Clip (a, zero, six)", "Clip (a, one, six)"),
        (HardSwish(), HARD_SWISH[0], "Clip (a, zero, six)", "Clip (a, , six)"),
        (HardSwish(), HARD_SWISH[4], "Max (a, zero)", "Max (a, one)"),
        (HardSwish(), HARD_SWISH[7], "0.16666667", "0.2"),
    ],
)
def test_near_misses(rewriting, declines, rewrite, body, old, new):
    assert old in body
    assert not declines(rewrite, model(rewriting, body.replace(old, new))).refusals


def test_integers_are_no_hard_swish(rewriting, declines):
    graph = rewriting.graph(
        "main (int32[4] x) => (int32[4] y) <int32 three = {3}, int32 zero = {0}, int32 six = {6}>"
        f"{{ {HARD_SWISH[0]} }}"
    )
    declines(HardSwish(), graph)


@pytest.mark.parametrize(
    ("rewrite", "body", "inner", "last"),
    [(SiLU(), SILU[0], "s", "Mul_y"), (Gelu(), GELU[0], "b", "Mul_y"), (HardSwish(), HARD_SWISH[0], "b", "Div_y")],
)
def test_what_others_see_stays(rewriting, declines, rewrite, body, inner, last):
    refusals = declines(rewrite, model(rewriting, body, f"float[2,3,4] {inner}")).refusals
    assert refusals == (f"{last}: '{inner}' is an output as well",)
    refusals = declines(rewrite, model(rewriting, f"{body} k = Cos ({inner})", "float[2,3,4] k")).refusals
    assert refusals == (f"{last}: '{inner}' is used by Cos_k as well",)


def test_many_at_once(rewriting):
    graph = model(
        rewriting, "s = Sigmoid (x)  b = Mul (x, s)  t = Sigmoid (b)  u = Mul (b, t)  w = Sigmoid (x)  y = Mul (u, w)"
    )
    result = rewriting.rewritten(SiLU(), graph, tolerance=0)
    assert rewriting.operators(result) == ["Sin", "SiLU_0", "SiLU_1", "Sigmoid", "Mul", "Neg"]


def test_half_precision_coefficients(rewriting):
    inputs = ", ".join(f"float16 {name}" for name in NUMBERS)
    weights = {name: np.array(value, np.float16) for name, value in NUMBERS.items()}
    graph = rewriting.graph(f"main (float16[8] x, {inputs}) => (float16[8] y) {{ {GELU[5]} }}", weights)
    assert rewriting.operators(rewriting.rewritten(Gelu(), graph, tolerance=1e-3)) == ["Gelu_0"]
