import pytest
from lepton_compile.passes.attention import Attention
from lepton_compile.passes.softmax import Softmax

PRODUCT = "t = Transpose <perm=[0,1,3,2]> (k)  a = MatMul (q, t)  "
SCALE = "b = Div (a, eight)  "
MASK = "c = Add (b, mask)  "
END = "p = Softmax (c)  y = MatMul (p, v)"

SPELLINGS = [
    PRODUCT + SCALE + MASK + END,
    PRODUCT + SCALE.replace("Div", "Mul") + MASK.replace("b, mask", "mask, b") + END,
    PRODUCT + SCALE + END.replace("(c)", "(b)"),
    PRODUCT + END.replace("Softmax (c)", "Softmax <axis=3> (a)"),
    PRODUCT + SCALE + "n = Greater (mask, eight)  c = Where (n, least, b)  " + END,
    "q0 = Mul (q, eight)  k0 = Mul (k, eight)  " + PRODUCT.replace("(k)", "(k0)").replace("(q,", "(q0,")
    + "c = Add (mask, a)  " + END,
    PRODUCT.replace("MatMul (q, t)", "MatMul (q, t0)").replace("a =", "t0 = Div (t, eight)  a =")
    + "c = Add (a, mask)  " + END,
    PRODUCT + SCALE + "c0 = Add (b, mask)  c = Max (c0, least)  " + END,
    PRODUCT + SCALE + "m = ReduceMax (b, last)  d = Sub (b, m)  e = Exp (d)  s = ReduceSum (e, last)  p = Div (e, s)"
    "y = MatMul (p, v)",
]  # fmt: skip


def model(rewriting, body, outputs=""):
    return rewriting.graph(
        "main (float[2,3,5,4] q, float[2,3,6,4] k, float[2,3,6,7] v, float[2,1,1,6] mask)"
        f" => (float[2,3,5,7] y{outputs}) <float eight = {{8}}, float least = {{-100}}, int64[1] last = {{-1}}>"
        f"{{ {body} }}"
    )


@pytest.mark.parametrize("body", SPELLINGS)
def test_spellings(rewriting, body):
    graph = model(rewriting, body)
    if "ReduceSum" in body:
        graph = rewriting.rewritten(Softmax(), graph, tolerance=0)
    result = rewriting.rewritten(Attention(), graph, tolerance=0)
    left = ["Greater", "Attention_0"] if "Greater" in body else ["Attention_0"]
    assert rewriting.operators(result) == left
    assert {"q", "k", "v"} <= {tensor.name for tensor in result.gs.nodes[-1].inputs}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Softmax (c)", "Softmax <axis=1> (c)"),
        ("Softmax (c)", "Sigmoid (c)"),
        ("MatMul (q, t)", 'Einsum <equation="abcd,abde->abce"> (q, t)'),
        ("Div (a, eight)", "Div (eight, a)"),
        ("Div (a, eight)", "Sin (a)"),
        ("Div (a, eight)", "Mul (a, a)"),
        # The weights on the right: V's columns are weighted, not its rows.
        ("y = MatMul (p, v)", "y0 = Transpose <perm=[0,1,3,2]> (v)  r = Transpose <perm=[0,1,3,2]> (p)"
         "y1 = MatMul (y0, r)  y = Transpose <perm=[0,1,3,2]> (y1)"),
    ],
)  # fmt: skip
def test_near_misses(rewriting, declines, old, new):
    body = SPELLINGS[0].replace(old, new)
    assert body != SPELLINGS[0]
    assert not declines(Attention(), model(rewriting, body)).refusals


def test_scores_that_are_used_refuse(rewriting, declines):
    refusals = declines(Attention(), model(rewriting, SPELLINGS[0], ", float[2,3,5,6] p")).refusals
    assert refusals == ("MatMul_y: 'p' is an output as well",)


def test_keys_that_are_used_elsewhere_are_transposed_outside(rewriting):
    result = rewriting.rewritten(Attention(), model(rewriting, SPELLINGS[0], ", float[2,3,4,6] t"), tolerance=0)
    assert rewriting.operators(result) == ["Transpose", "Attention_0"]


def test_the_transpositions_of_heads_go_in(rewriting):
    body = (
        "q0 = Transpose <perm=[0,1,2,3]> (q)  v0 = Transpose <perm=[0,1,2,3]> (v)  k0 = Transpose <perm=[0,1,2,3]> (k)"
        + SPELLINGS[0].replace("(q,", "(q0,").replace(", v)", ", v0)").replace("(k)", "(k0)")
    )
    result = rewriting.rewritten(Attention(), model(rewriting, body), tolerance=0)
    assert rewriting.operators(result) == ["Attention_0"]
