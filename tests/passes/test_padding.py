import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lepton_compile.passes.padding import Padding

WEIGHT = {"w": np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)}


def model(rewriting, operator, pads="0,0,1,2,0,0,0,1", value="", mode="constant", before="a = Relu (x)", weight=True):
    """A Pad between `before` and `operator`; the shape of y is inferred."""
    inputs = "float[1,3,6,7] x" + (", float[2,3,3,3] w" if weight else "")
    fill = f", float v = {{{value}}}" if value else ""
    return rewriting.graph(
        f"main ({inputs}) => (float[n,c,h,v] y) <int64[8] pads = {{{pads}}}{fill}>"
        f'{{ {before}  b = Pad <mode="{mode}"> (a, pads{", v" if value else ""})  y = {operator} }}',
        weights=WEIGHT if weight else {},
    )


def test_into_convolution_adds_to_its_own(rewriting):
    graph = model(rewriting, "Conv <pads=[1,0,0,1], strides=[2,1]> (b, w)")
    result = rewriting.rewritten(Padding(), graph)
    assert rewriting.operators(result) == ["Relu", "Conv"]
    assert result.gs.nodes[1].attrs["pads"] == [2, 2, 0, 2]


def test_only_some_axes_named(rewriting):
    graph = rewriting.graph(
        "main (float[1,3,6,7] x, float[2,3,3,3] w) => (float[1,2,6,5] y)"
        "<int64[2] pads = {2,0}, int64[1] axes = {-2}> { b = Pad (x, pads, , axes)  y = Conv (b, w) }",
        weights=WEIGHT,
    )
    assert rewriting.operators(rewriting.rewritten(Padding(), graph)) == ["Conv"]


def test_others_may_read_the_pad(rewriting):
    graph = rewriting.graph(
        "main (float[1,3,6,7] x, float[2,3,3,3] w) => (float[1,2,6,7] y, float[1,3,8,9] b)"
        "<int64[8] pads = {0,0,1,1,0,0,1,1}> { b = Pad (x, pads)  y = Conv (b, w) }",
        weights=WEIGHT,
    )
    assert rewriting.operators(rewriting.rewritten(Padding(), graph)) == ["Pad", "Conv"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"operator": "Conv (b, w)", "value": "0.5"}, "its value is not zero"),
        ({"operator": "Conv (b, w)", "mode": "edge"}, "it pads by edge"),
        ({"operator": "Conv (b, w)", "pads": "0,0,-1,0,0,0,0,0"}, "it crops"),
        ({"operator": "Conv (b, w)", "pads": "0,0,1,0,1,0,0,0"}, "spatial axes alone"),
        ({"operator": 'Conv <auto_pad="SAME_UPPER"> (b, w)'}, "pads by SAME_UPPER"),
        ({"operator": "AveragePool <kernel_shape=[4,4], pads=[1,1,1,1]> (b)"}, "does not count the padding"),
        ({"operator": "AveragePool <kernel_shape=[3,3], ceil_mode=1> (b)"}, "rounds its size up"),
        ({"operator": "AveragePool <kernel_shape=[2,2]> (b)"}, "nothing but padding"),
        ({"operator": "MaxPool <kernel_shape=[3,3]> (b)", "before": "a = Neg (x)"}, "'a' may be below"),
        ({"operator": "MaxPool <kernel_shape=[3,3]> (b)", "value": "-1"}, "'a' may be below"),
        ({"operator": "MaxPool <kernel_shape=[3,3], dilations=[2,2]> (b)"}, "is dilated"),
    ],
)
def test_says_why_not(rewriting, declines, arguments, why):
    graph = model(rewriting, **arguments, weight="w" in arguments["operator"].split("(b")[1])
    assert why in declines(Padding(), graph).refusals[0]


@pytest.mark.parametrize(
    ("operator", "value", "before"),
    [
        ("AveragePool <kernel_shape=[3,3]> (b)", "", "a = Neg (x)"),
        ("AveragePool <kernel_shape=[4,4], count_include_pad=1, pads=[1,1,1,1]> (b)", "", "a = Neg (x)"),
        ("MaxPool <kernel_shape=[3,3]> (b)", "", "a = Relu (x)"),
        ("MaxPool <kernel_shape=[3,3]> (b)", "", "r = Sigmoid (x)  a = MaxPool <kernel_shape=[1,2]> (r)"),
        ("MaxPool <kernel_shape=[3,3]> (b)", "-inf", "a = Neg (x)"),
    ],
)
def test_into_pooling(rewriting, operator, value, before):
    graph = model(rewriting, operator, value=value, before=before, weight=False)
    result = rewriting.rewritten(Padding(), graph, special=False)
    assert "Pad" not in rewriting.operators(result)


@settings(max_examples=30, deadline=None)
@given(
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    own=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    strides=st.lists(st.integers(1, 2), min_size=2, max_size=2),
    operator=st.sampled_from(["Conv", "AveragePool", "MaxPool"]),
)
def test_any_padding(rewriting, pads, own, strides, operator):
    assume(any(pads))
    attributes = f"strides={strides}, pads={own}"
    if operator != "Conv":
        attributes += ", kernel_shape=[4,4]" + ", count_include_pad=1" * (operator == "AveragePool")
    if operator == "MaxPool":
        assume(not any(own))
    text = f"{operator} <{attributes}> (b{', w' if operator == 'Conv' else ''})"
    every = ",".join(map(str, itertools.chain([0, 0], pads[:2], [0, 0], pads[2:])))
    result = rewriting.rewritten(Padding(), model(rewriting, text, every, weight=operator == "Conv"), special=False)
    assert rewriting.operators(result) == ["Relu", operator]
