"""Divisions by constants, and those whose last bit matters."""

from __future__ import annotations

import numpy as np
import pytest
from lepton_compile.passes.reciprocals import Reciprocals


def test_a_division_becomes_a_multiplication(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2,8] x) => (float[2,8] y) <float six = {6.0}> {
            a = Div (x, six)
            b = Mul (a, x)
            y = Erf (b)
        }""")
    result = rewriting.rewritten(Reciprocals(), graph)
    assert rewriting.operators(result) == ["Mul", "Mul", "Erf"]
    declines(Reciprocals(), result)


def test_one_divisor_of_several_divisions_and_of_each_channel(rewriting):
    graph = rewriting.graph(
        "main (float[2,3] x, float[3] d) => (float[2,3] y, float[3] z) { a = Div (x, d) y = Div (a, d) z = Neg (d) }",
        {"d": np.array([3, -7, 11], np.float32)},
    )
    assert rewriting.operators(rewriting.rewritten(Reciprocals(), graph)) == ["Mul", "Mul", "Neg"]


@pytest.mark.parametrize("divisor", [0.0, np.inf, np.nan, 1e-38, 1e38])
def test_divisors_without_a_reciprocal(divisor: float, rewriting, declines):
    weights = {"d": np.array(divisor, np.float32)}
    declines(Reciprocals(), rewriting.graph("main (float[9] x, float d) => (float[9] y) { y = Div (x, d) }", weights))


@pytest.mark.parametrize("behind", ["Floor (b)", "Cast <to=7> (b)", "Less (b, x)"])
def test_a_quotient_that_is_rounded_stays(behind: str, rewriting, declines):
    """41 / 41 is 1; 41 * (1 / 41) is not."""
    kind = {"F": "float", "C": "int64", "L": "bool"}[behind[0]]
    text = f"main (float[9] x) => ({kind}[9] y) <float d = {{DIVISOR}}> {{ a = Div (x, d) b = Neg (a) y = {behind} }}"
    refused = declines(Reciprocals(), rewriting.graph(text.replace("DIVISOR", "41.0")))
    assert "decides what" in refused.refusals[0]
    exact = rewriting.rewritten(Reciprocals(), rewriting.graph(text.replace("DIVISOR", "8.0")), special=False)
    assert "Mul" in rewriting.operators(exact)


@pytest.mark.parametrize("kind", ["int32", "double", "float16"])
def test_other_types_stay(kind: str, rewriting, declines):
    declines(
        Reciprocals(), rewriting.graph(f"main ({kind}[9] x) => ({kind}[9] y) <{kind} d = {{4}}> {{ y = Div (x, d) }}")
    )
