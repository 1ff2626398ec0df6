import numpy as np
import pytest

from lepton_compile.rewriting.equality import same_graph

MODEL = """
main (bool c, float[3] x) => (float[3] y) <float[3] w = {1,2,3}> {
    a = LeakyRelu <alpha=0.5> (x)
    y = If (c) <
        then_branch = yes () => (float[3] p) { p = Mul (a, w) },
        else_branch = no () => (float[3] q) { q = Neg (a) }
    >
}"""


def test_a_copy_is_the_same(graph):
    original = graph(MODEL)
    assert same_graph(original, original.copy())
    assert same_graph(original, graph(MODEL))


def other_attribute(copy):
    copy.gs.nodes[0].attrs["alpha"] = 0.25


def other_weight(copy):
    copy.gs.nodes[1].attrs["then_branch"].nodes[0].inputs[1].values = np.float32([1, 2, np.nan])


def other_operator_in_a_branch(copy):
    copy.gs.nodes[1].attrs["else_branch"].nodes[0].op = "Abs"


def other_input(copy):
    copy.gs.nodes[1].attrs["else_branch"].nodes[0].inputs[0] = copy.gs.inputs[1]


def fewer_nodes(copy):
    copy.gs.nodes.pop()


def other_domain(copy):
    copy.gs.nodes[0].domain = "local"


@pytest.mark.parametrize(
    "change", [other_attribute, other_weight, other_operator_in_a_branch, other_input, fewer_nodes, other_domain]
)
def test_a_change_is_seen(graph, change):
    original = graph(MODEL)
    copy = original.copy()
    change(copy)
    assert not same_graph(original, copy)


def test_nan_is_the_same_as_nan(graph):
    one, other = graph(MODEL), graph(MODEL)
    for copy in (one, other):
        other_weight(copy)
        copy.gs.nodes[0].attrs["alpha"] = float("nan")
    assert same_graph(one, other)
