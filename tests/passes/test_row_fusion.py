"""What stands around reductions and normalisations, and what must not go in with them."""

from __future__ import annotations

import pytest
from lepton_compile.passes.elementwise_fusion import ElementWiseFusion
from lepton_compile.passes.layer_normalization import LayerNormalization
from lepton_compile.passes.row_fusion import RowFusion


def model(rewriting, body, outputs="float[3,4] y"):
    return rewriting.graph(
        f"main (float[3,4] x, float[3,4] z, float[1,4] m) => ({outputs})"
        f"<float two = {{2}}, float small = {{0.001}}, int64[1] last = {{-1}}, float[4] g = {{1, 2, 3, 4}}>"
        f"{{ {body} }}"
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = Add (x, z)  b = LayerNormalization (a, g, g)  y = Relu (b)",
        "a = Mul (x, two)  b = Add (a, m)  y = Softmax (b)",
        "a = Exp (x)  s = ReduceSum (a, last)  y = Div (a, s)",
        "a = ReduceMean (x, last)  d = Sub (x, a)  q = Mul (d, d)  v = ReduceMean (q, last)  w = Add (v, small)"
        "r = Sqrt (w)  y = Div (d, r)",
    ],
)
def test_becomes_one(rewriting, declines, body):
    result = rewriting.rewritten(RowFusion(), model(rewriting, body), tolerance=0)
    assert rewriting.operators(result) == ["Rows_0"]
    declines(RowFusion(), result)


def test_regions_of_other_passes_go_in(rewriting):
    body = (
        "b = Abs (z)  c = Add (x, b)  a = ReduceMean (c, last)  d = Sub (c, a)  q = Mul (d, d)"
        "v = ReduceMean (q, last)  w = Add (v, small)  r = Sqrt (w)  n = Div (d, r)  o = Exp (n)  y = Neg (o)"
    )
    graph = rewriting.rewritten(LayerNormalization(), model(rewriting, body), tolerance=0)
    graph = rewriting.rewritten(ElementWiseFusion(), graph, tolerance=0)
    assert rewriting.operators(graph) == ["ElementWise_0", "LayerNormalization_0", "ElementWise_1"]
    assert rewriting.operators(rewriting.rewritten(RowFusion(), graph, tolerance=0)) == ["Rows_0"]


def test_a_reduction_takes_what_it_reduces(rewriting):
    graph = model(rewriting, "a = Mul (x, z)  b = Abs (a)  y = ReduceSum (b, last)", "float[3,1] y")
    assert rewriting.operators(rewriting.rewritten(RowFusion(), graph, tolerance=0)) == ["Rows_0"]


@pytest.mark.parametrize(
    ("body", "outputs", "operators"),
    [
        ("a = Add (x, z)  b = Softmax (a)  y = Mul (a, b)", "float[3,4] y, float[3,4] a", ["Add", "Rows_0"]),
        ("a = Add (x, z)  b = Softmax (a)  c = Exp (a)  y = Sub (c, b)", "float[3,4] y", ["Rows_0"]),
        # A mask that is the same for all rows is computed once.
        ("n = Exp (m)  a = Add (x, n)  y = Softmax (a)", "float[3,4] y", ["Exp", "Rows_0"]),
        # One normalisation after the other.
        ("a = Softmax (x)  b = Mul (a, z)  y = LayerNormalization (b, g)", "float[3,4] y", ["Softmax", "Rows_0"]),
        # A value of each row that two others need.
        ("s = ReduceMax (x, last)  e = Exp (s)  y = Mul (e, x)  w = Neg (e)", "float[3,4] y, float[3,1] w",
         ["Rows_0", "Mul", "Neg"]),
    ],
)  # fmt: skip
def test_what_stays_outside(rewriting, body, outputs, operators):
    result = rewriting.proposal(RowFusion(), model(rewriting, body, outputs))
    changed = rewriting.rewritten(RowFusion(), model(rewriting, body, outputs), tolerance=0)
    assert result.reason
    assert rewriting.operators(changed) == operators
