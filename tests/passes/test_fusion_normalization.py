import pytest
from lepton_compile.passes.layer_normalization import LayerNormalization
from lepton_compile.passes.softmax import Softmax

CONSTANTS = (
    "int64[1] last = {-1}, int64[2] last_two = {1, 2}, int64[1] first = {0}, int64[1] middle = {1}, float two = {2},"
    "float half = {0.5}, float minus_half = {-0.5}, float one = {1}, float epsilon = {0.00001},"
    "float[4] scale = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}, float[3,1] other = {1, 2, 3}"
)
BEGIN = "m = ReduceMean (x, last)  d = Sub (x, m)  "
VARIANCE = "q = Pow (d, two)  v = ReduceMean (q, last)  e = Add (v, epsilon)  "
AFFINE = "  p = Mul (n, scale)  y = Add (p, bias)"
DIVIDE = "s = Sqrt (e)  n = Div (d, s)"

SPELLINGS = [
    BEGIN + VARIANCE + DIVIDE + AFFINE,
    BEGIN + VARIANCE + DIVIDE + "  p = Mul (scale, n)  y = Add (bias, p)",
    BEGIN + VARIANCE.replace("Pow (d, two)", "Mul (d, d)") + DIVIDE + AFFINE,
    BEGIN + "c = Sub (x, m)  " + VARIANCE.replace("Pow (d", "Pow (c") + DIVIDE + AFFINE,
    BEGIN + VARIANCE + "s = Sqrt (e)  r = Reciprocal (s)  n = Mul (d, r)" + AFFINE,
    BEGIN + VARIANCE + "s = Sqrt (e)  r = Div (one, s)  n = Mul (r, d)" + AFFINE,
    BEGIN + VARIANCE + "s = Pow (e, minus_half)  n = Mul (d, s)" + AFFINE,
    BEGIN + VARIANCE + "s = Pow (e, half)  n = Div (d, s)" + AFFINE,
    BEGIN + VARIANCE + DIVIDE.replace("n =", "y ="),
    BEGIN + VARIANCE + DIVIDE + "  y = Mul (n, scale)",
    (BEGIN + VARIANCE + DIVIDE + AFFINE).replace("last", "last_two"),
    # The affine map first, as TensorFlow does.
    BEGIN + VARIANCE + "s = Sqrt (e)  r = Reciprocal (s)  w = Mul (r, scale)  a = Mul (x, w)  b = Mul (m, w)"
    "c = Sub (bias, b)  y = Add (a, c)",
]  # fmt: skip


def model(rewriting, body, outputs=""):
    """`body` between other nodes; x is read by the last of them too, as a residual connection does."""
    text = (
        f"main (float[2,3,4] w0) => (float[2,3,4] z{outputs}) <{CONSTANTS}> {{ x = Sin (w0)  {body}  z = Add (y, x) }}"
    )
    return rewriting.graph(text)


@pytest.mark.parametrize("body", SPELLINGS)
def test_layer_normalization(rewriting, body):
    result = rewriting.rewritten(LayerNormalization(), model(rewriting, body), tolerance=0)
    assert rewriting.operators(result) == ["Sin", "LayerNormalization_0", "Add"]
    assert [tensor.name for tensor in result.gs.nodes[1].inputs] == ["x"]


@pytest.mark.parametrize(
    "body",
    [
        SPELLINGS[0].replace("last", "first"),
        SPELLINGS[0].replace("last", "middle"),
        SPELLINGS[0].replace("ReduceMean (q, last)", "ReduceMean (q, last_two)"),
        SPELLINGS[0].replace("Pow (d, two)", "Pow (d, half)"),
        SPELLINGS[0].replace("Pow (d, two)", "Pow (x, two)"),
        SPELLINGS[0].replace("ReduceMean (x, last)", "ReduceMax (x, last)"),
        SPELLINGS[0].replace("Div (d, s)", "Div (x, s)"),
        SPELLINGS[0].replace("Sub (x, m)", "Sub (m, x)"),
        SPELLINGS[4].replace("Mul (d, r)", "Div (d, r)"),
        SPELLINGS[-1].replace("Mul (m, w)", "Mul (x, w)"),
    ],
)
def test_other_normalizations(rewriting, declines, body):
    assert not declines(LayerNormalization(), model(rewriting, body)).refusals


def test_a_scale_over_other_axes_stays_outside(rewriting):
    body = BEGIN + VARIANCE + DIVIDE + "  p = Mul (n, other)  y = Add (p, bias)"
    result = rewriting.rewritten(LayerNormalization(), model(rewriting, body), tolerance=0)
    assert rewriting.operators(result) == ["Sin", "LayerNormalization_0", "Mul", "Add", "Add"]


def test_a_scale_behind_a_value_that_is_used_stays_outside(rewriting):
    result = rewriting.rewritten(LayerNormalization(), model(rewriting, SPELLINGS[0], ", float[2,3,4] n"), tolerance=0)
    assert rewriting.operators(result) == ["Sin", "LayerNormalization_0", "Mul", "Add", "Add"]


def test_a_variance_that_is_used_refuses(rewriting, declines):
    refusals = declines(LayerNormalization(), model(rewriting, SPELLINGS[0], ", float[2,3,1] v")).refusals
    assert refusals == ("Add_y: 'v' is an output as well",)


SOFTMAX = "m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, last)  y = Div (e, s)"


@pytest.mark.parametrize("axis", ["last", "first", "middle"])
def test_softmax(rewriting, axis):
    result = rewriting.rewritten(Softmax(), model(rewriting, SOFTMAX.replace("last", axis)), tolerance=0)
    assert rewriting.operators(result) == ["Sin", "Softmax_0", "Add"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ReduceMax (x, last)", "ReduceMax (x, first)"),
        ("last", "last_two"),
        ("ReduceMax", "ReduceMin"),
        ("Sub (x, m)", "Sub (m, x)"),
        ("ReduceSum (e", "ReduceSum (d"),
        ("Div (e, s)", "Div (d, s)"),
    ],
)
def test_no_softmax(rewriting, declines, old, new):
    assert not declines(Softmax(), model(rewriting, SOFTMAX.replace(old, new))).refusals


def test_softmax_whose_sum_is_used_refuses(rewriting, declines):
    refusals = declines(Softmax(), model(rewriting, SOFTMAX, ", float[2,3,1] s")).refusals
    assert refusals == ("Div_y: 's' is an output as well",)
