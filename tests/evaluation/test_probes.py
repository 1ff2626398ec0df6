"""Probe inputs are values that the model takes."""

import numpy as np
import onnx.parser
import pytest

from lepton_compile.evaluation.probes import random_inputs
from lepton_compile.model import Graph


def graph_of(text):
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text)
    graph = Graph.from_model(model)
    graph.infer_shapes()
    return graph


@pytest.fixture
def graph():
    return graph_of("""
        agraph (float[2,3] x, int64[4] words, int32[5] bytes, bool[64] flags, int64 rate, int8[99] small, float16[2] h)
        => (float[4,2] w, int32[5] b, bool[64] f, bool r, int8[99] s, float16[2] g, float[2,3] y)
        <float[7,2] table = {0,1,2,3,4,5,6,7,8,9,10,11,12,13}, int64 fast = {16000}, int64[1] zero = {0}>
        {
            row = Unsqueeze(words, zero)
            narrow = Cast<to=6>(row)
            flat = Squeeze(narrow, zero)
            w = Gather(table, flat)
            b = Identity(bytes)
            f = Not(flags)
            r = Equal(rate, fast)
            s = Identity(small)
            g = Identity(h)
            y = Relu(x)
        }""")


def test_values_have_the_types_and_shapes_of_the_inputs(graph):
    inputs = random_inputs(graph, 0)
    assert {name: (value.dtype.name, value.shape) for name, value in inputs.items()} == {
        "x": ("float32", (2, 3)), "words": ("int64", (4,)), "bytes": ("int32", (5,)), "flags": ("bool", (64,)),
        "rate": ("int64", ()), "small": ("int8", (99,)), "h": ("float16", (2,)),
    }  # fmt: skip
    assert set(graph.run(inputs)) == {"w", "b", "f", "r", "s", "g", "y"}


def test_integers_mean_something(graph):
    for seed in range(50):
        inputs = random_inputs(graph, seed)
        assert 0 <= inputs["words"].min() <= inputs["words"].max() < 7
        assert inputs["rate"] == 16000
        assert inputs["bytes"].min() >= 0 and inputs["bytes"].max() < 256
        assert inputs["small"].min() >= 0
    assert 0 < inputs["flags"].sum() < 64


def test_seeds_give_values(graph):
    one, same, other = (random_inputs(graph, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["x"], other["x"])


def test_uses_inside_branches_count():
    graph = graph_of("""
        agraph (bool c, int64[3] i) => (float[3,1] y)
        <float[2,1] table = {1, 2}, int64[1] one = {1}>
        {
            y = If (c) <
                then_branch = yes () => (float[3,1] a) { a = Gather(table, i) },
                else_branch = no () => (float[3,1] b) { column = Unsqueeze(i, one) b = Cast<to=1>(column) }
            >
        }""")
    assert max(random_inputs(graph, seed)["i"].max() for seed in range(20)) == 1
