import numpy as np
from lepton_compile.passes.constant_folding import ConstantFolding


def test_folds_what_depends_on_no_input(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2,3] x) => (float[2,3] y) <float[3] a = {1,2,3}, float b = {2}> {
            c = Mul (a, b)
            y = Add (x, c)
        }""")
    result = rewriting.rewritten(ConstantFolding(), graph)
    assert rewriting.operators(result) == ["Add"]
    np.testing.assert_array_equal(result.gs.nodes[0].inputs[1].values, [2, 4, 6])
    declines(ConstantFolding(), result)


def test_shape_arithmetic_disappears(rewriting):
    graph = rewriting.graph("""
        main (float[2,3] x, float[6] z) => (float[2,3] y) {
            s = Shape (x)
            y = Reshape (z, s)
        }""")
    assert rewriting.operators(rewriting.rewritten(ConstantFolding(), graph)) == ["Reshape"]


def test_quantization_random_numbers_and_constant_outputs_stay(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2] x) => (float[2] y, float[2] z) <int8[2] q = {1,2}, float s = {0.5}, float[2] c = {1,2}> {
            d = DequantizeLinear (q, s)
            r = RandomNormal <shape=[2]> ()
            y = Sum (x, d, r)
            z = Identity (c)
        }""")
    declines(ConstantFolding(), graph)


def test_inside_branches(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[2] x) => (float[2] y) <float[2] a = {1,2}> {
            y = If (c) <
                then_branch = yes () => (float[2] p) { e = Exp (a)  p = Add (x, e) },
                else_branch = no () => (float[2] q) { q = Neg (x) }
            >
        }""")
    assert rewriting.operators(rewriting.rewritten(ConstantFolding(), graph)) == ["If", "Add", "Neg"]
