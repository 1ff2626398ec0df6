import pytest
from lepton_compile.passes.no_operations import NoOperations

NOTHING = [
    "n = Identity (a)",
    "n = Dropout (a)",
    "n = Cast <to=1> (a)",
    "n = Transpose <perm=[0,1,2,3]> (a)",
    "n = Reshape (a, shape)",
    "n = Expand (a, shape)",
    "n = Tile (a, ones)",
    "n = Concat <axis=1> (a)",
    "n = Pad (a, no_pads)",
    "n = Slice (a, zeros, shape)",
    "n = Sum (a)",
    "n = Add (a, zero)",
    "n = Add (zero, a)",
    "n = Sub (a, zero)",
    "n = Mul (one, a)",
    "n = Div (a, one)",
    "n = Pow (a, one)",
    "n = Resize <mode=\"linear\"> (a, , unscaled)",
    "n = ReduceSum <keepdims=1> (a, first)",
    "n = DepthToSpace <blocksize=1> (a)",
]  # fmt: skip

SOMETHING = [
    "n = Sub (zero, a)",
    "n = Div (one, a)",
    "n = Slice (a, last, before_first, all_axes, backwards)",
    "n = Pad (a, shifting)",
    "n = Transpose <perm=[0,2,1,3]> (a)",
    "n = Clip (a)",  # infinities become the largest finite numbers
    "n = Clip (a, zero)",
    "n = Resize <coordinate_transformation_mode=\"tf_crop_and_resize\", mode=\"linear\"> (a, region, unscaled)",
]  # fmt: skip

CONSTANTS = """
    float zero = {0}, float one = {1}, int64[4] shape = {1,2,2,4}, int64[4] ones = {1,1,1,1}, int64[1] first = {0},
    int64[8] no_pads = {0,0,0,0,0,0,0,0}, int64[8] shifting = {0,0,0,1,0,0,0,-1}, int64[4] zeros = {0,0,0,0},
    int64[4] last = {-1,-1,-1,-1}, int64[4] before_first = {-9,-9,-9,-9}, int64[4] all_axes = {0,1,2,3},
    int64[4] backwards = {-1,-1,-1,-1}, float[4] unscaled = {1,1,1,1}, float[8] region = {0,0,0,0,1,1,0.5,0.5}
"""


def model(rewriting, line):
    return rewriting.graph(
        f"main (float[1,2,2,4] x) => (float[1,2,2,4] y) <{CONSTANTS}> {{ a = Neg (x)  {line}  y = Relu (n) }}"
    )


@pytest.mark.parametrize("line", NOTHING)
def test_removes(rewriting, line):
    result = rewriting.rewritten(NoOperations(), model(rewriting, line), tolerance=0)
    assert rewriting.operators(result) == ["Neg", "Relu"]


@pytest.mark.parametrize("line", SOMETHING)
def test_keeps(rewriting, declines, line):
    declines(NoOperations(), model(rewriting, line))


def test_keeps_neutral_arithmetic_that_broadcasts(rewriting, declines):
    graph = rewriting.graph("main (float[1,3] x) => (float[2,3] y) <float[2,1] zero = {0,0}> { y = Add (x, zero) }")
    declines(NoOperations(), graph)


def test_keeps_dropout_whose_mask_is_read(rewriting, declines):
    graph = rewriting.graph(
        "main (float[3] x) => (float[3] y, bool[3] m) { a = Neg (x)  b, m = Dropout (a)  y = Neg (b) }"
    )
    declines(NoOperations(), graph)


def test_an_output_keeps_its_name(rewriting):
    graph = rewriting.graph(
        "main (float[3] x) => (float[3] y, float[3] z) { a = Relu (x)  y = Identity (a)  z = Neg (a) }"
    )
    result = rewriting.rewritten(NoOperations(), graph)
    assert rewriting.operators(result) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "body",
    [
        "{ y = Identity (x)  z = Neg (x) }",  # an input
        "{ z = Relu (x)  y = Identity (z) }",  # another output
    ],
)
def test_refuses_to_let_an_output_vanish(rewriting, declines, body):
    graph = rewriting.graph(f"main (float[3] x) => (float[3] y, float[3] z) {body}")
    assert "'y'" in declines(NoOperations(), graph).refusals[0]


def test_a_branch_needs_an_output_of_its_own(rewriting, declines):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            outer = Exp (x)
            y = If (c) <
                then_branch = yes () => (float[3] p) { p = Identity (outer) },
                else_branch = no () => (float[3] q) { q = Neg (x) }
            >
        }""")
    assert "'p'" in declines(NoOperations(), graph).refusals[0]


def test_inside_a_branch_and_for_a_branch(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            e = Exp (x)
            outer = Identity (e)
            y = If (c) <
                then_branch = yes () => (float[3] p) { a = Relu (outer)  p = Identity (a) },
                else_branch = no () => (float[3] q) { q = Neg (outer) }
            >
        }""")
    result = rewriting.rewritten(NoOperations(), graph)
    assert rewriting.operators(result) == ["Exp", "If", "Relu", "Neg"]


def test_a_chain_of_them(rewriting):
    graph = rewriting.graph(
        "main (float[3] x) => (float[3] y) { a = Relu (x)  b = Identity (a)  c = Identity (b)  y = Identity (c) }"
    )
    result = rewriting.rewritten(NoOperations(), graph)
    assert rewriting.operators(result) == ["Relu"]


def test_inside_a_function(rewriting):
    graph = rewriting.graph(
        "main (float[3] x) => (float[3] y) { y = local.f (x) }",
        functions='<domain: "local", opset_import: ["": 21]>'
        "f (a) => (d) { b = Exp (a)  c = Identity (b)  d = Neg (c) }",
    )
    result = rewriting.rewritten(NoOperations(), graph)
    assert [node.op for node in result.gs.functions[0].nodes] == ["Exp", "Neg"]
