import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_compile.passes.cancelling_transposes import CancellingTransposes


def test_a_pair_that_cancels_disappears(rewriting, declines):
    graph = rewriting.graph("""
        main (float[1,2,3,4] x) => (float[1,2,3,4] y) {
            a = Relu (x)
            b = Transpose <perm=[0,2,3,1]> (a)
            c = Transpose <perm=[0,3,1,2]> (b)
            y = Neg (c)
        }""")
    result = rewriting.rewritten(CancellingTransposes(), graph)
    assert rewriting.operators(result) == ["Relu", "Neg"]
    declines(CancellingTransposes(), result)


def test_others_may_read_the_first(rewriting):
    graph = rewriting.graph("""
        main (float[2,3] x) => (float[2,3] y, float[3,2] z) {
            a = Relu (x)
            z = Transpose (a)
            y = Transpose (z)
        }""")
    result = rewriting.rewritten(CancellingTransposes(), graph)
    assert rewriting.operators(result) == ["Relu", "Transpose"]


def test_from_input_to_output_nothing_can_stand_in(rewriting, declines):
    graph = rewriting.graph("main (float[2,3] x) => (float[2,3] y) { a = Transpose (x)  y = Transpose (a) }")
    assert "'y'" in declines(CancellingTransposes(), graph).refusals[0]


def test_across_a_branch(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[2,3] x) => (float[2,3] y) {
            a = Exp (x)
            t = Transpose (a)
            y = If (c) <
                then_branch = yes () => (float[2,3] p) { b = Transpose (t)  p = Relu (b) },
                else_branch = no () => (float[2,3] q) { q = Neg (x) }
            >
        }""")
    result = rewriting.rewritten(CancellingTransposes(), graph)
    assert rewriting.operators(result) == ["Exp", "If", "Relu", "Neg"]


@settings(max_examples=25, deadline=None)
@given(chain=st.lists(st.sampled_from(list(itertools.permutations(range(3)))), min_size=2, max_size=5))
def test_chains_compose(rewriting, chain):
    names = ["a", *(f"t{i}" for i in range(len(chain)))]
    lines = [
        f"{out} = Transpose <perm={list(perm)}> ({source})"
        for source, out, perm in zip(names, names[1:], chain, strict=False)
    ]
    shape = [2, 3, 4]
    for perm in chain:
        shape = [shape[axis] for axis in perm]
    graph = rewriting.graph(
        f"main (float[2,3,4] x) => (float{shape} y) {{ a = Relu (x)  {' '.join(lines)}  y = Neg ({names[-1]}) }}"
    )
    result = rewriting.rewritten(CancellingTransposes(), graph)
    assert rewriting.operators(result).count("Transpose") <= 1
