import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_compile.passes.channel_shuffle import ChannelShuffle

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": RANDOM.normal(size=(6, 1, 3, 3)).astype(np.float32),
    "b": RANDOM.normal(size=6).astype(np.float32),
    "v": RANDOM.normal(size=(4, 3, 1, 1)).astype(np.float32),
}
SHUFFLE = "s = Reshape (a, split)  t = Transpose <perm=[0,2,1,3,4]> (s)  c = Reshape (t, joined)"
DEPTHWISE = "Conv <group=6, pads=[1,1,1,1]>"


def model(rewriting, body, outputs="float[1,6,4,5] y"):
    inputs = "float[1,6,4,5] x, float[6,1,3,3] w, float[6] b, float[4,3,1,1] v"
    numbers = (
        "<int64[5] split = {1,2,3,4,5}, int64[4] joined = {1,6,4,5}, float zero = {0}, float six = {6},"
        " int64[6] reversed = {5,4,3,2,1,-6}, int64[6] twice = {0,0,1,2,3,4}>"
    )
    return rewriting.graph(f"main ({inputs}) => ({outputs}) {numbers} {{ {body} }}", WEIGHTS)


def test_a_shuffle_is_one_gather(rewriting, declines):
    result = rewriting.rewritten(
        ChannelShuffle(), model(rewriting, f"a = Relu (x)  {SHUFFLE}  y = MaxPool <kernel_shape=[1,1]> (c)")
    )
    assert rewriting.operators(result) == ["Relu", "Gather", "MaxPool"]
    declines(ChannelShuffle(), result)


def test_it_moves_behind_what_takes_channels_in_any_order(rewriting, declines):
    body = f"""a = Relu (x)  {SHUFFLE}
        d = {DEPTHWISE} (c, w, b)  e = Clip (d, zero, six)  f = {DEPTHWISE} (e, w)  y = Conv <group=2> (f, v)"""
    result = rewriting.rewritten(ChannelShuffle(), model(rewriting, body, "float[1,4,4,5] y"))
    assert rewriting.operators(result) == ["Relu", "Conv", "Clip", "Conv", "Gather", "Conv"]
    declines(ChannelShuffle(), result)


def test_an_output_keeps_its_name(rewriting):
    result = rewriting.rewritten(
        ChannelShuffle(), model(rewriting, f"a = Relu (x)  {SHUFFLE}  y = {DEPTHWISE} (c, w, b)")
    )
    assert rewriting.operators(result) == ["Relu", "Conv", "Gather"]


def test_a_gather_moves_if_it_is_a_permutation(rewriting, declines):
    graph = model(rewriting, f"a = Gather <axis=1> (x, reversed)  y = {DEPTHWISE} (a, w, b)")
    assert rewriting.operators(rewriting.rewritten(ChannelShuffle(), graph)) == ["Conv", "Gather"]
    declines(ChannelShuffle(), model(rewriting, f"a = Gather <axis=1> (x, twice)  y = {DEPTHWISE} (a, w, b)"))


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"a = Relu (x)  {SHUFFLE}  y = Relu (c)", "float[1,6,4,5] y, float[1,3,2,4,5] t"),
        (f"a = Relu (x)  {SHUFFLE}  y = Relu (c)  z = Neg (t)", "float[1,6,4,5] y, float[1,3,2,4,5] z"),
    ],
)
def test_what_others_read_stays(rewriting, declines, body, outputs):
    assert "'t'" in declines(ChannelShuffle(), model(rewriting, body, outputs)).refusals[0]


def test_the_split_that_others_read_stays(rewriting):
    graph = model(
        rewriting, f"a = Relu (x)  {SHUFFLE}  y = Tanh (c)  z = Neg (s)", "float[1,6,4,5] y, float[1,2,3,4,5] z"
    )
    assert sorted(rewriting.operators(rewriting.rewritten(ChannelShuffle(), graph))) == [
        "Gather", "Neg", "Relu", "Reshape", "Tanh",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        "s = Reshape (x, split)  t = Transpose <perm=[0,2,1,4,3]> (s)  y = Reshape (t, joined)",
        "s = Reshape (x, split)  t = Transpose <perm=[0,1,3,2,4]> (s)  y = Reshape (t, joined)",
        "s = Reshape (x, split)  t = Transpose <perm=[1,0,2,3,4]> (s)  y = Reshape (t, joined)",
    ],
)
def test_other_axes_stay(rewriting, declines, body):
    declines(ChannelShuffle(), model(rewriting, body))


def test_axes_of_one_take_part(rewriting):
    """(2, 1) channels transposed: the product is that of the channels without the last axis."""
    graph = rewriting.graph(
        "main (float[1,2,2,3] x) => (float[1,2,2,3] y) <int64[5] split = {1,2,1,2,3}, int64[4] joined = {1,2,2,3}>"
        "{ s = Reshape (x, split)  t = Transpose <perm=[0,2,1,3,4]> (s)  y = Reshape (t, joined) }"
    )
    assert rewriting.operators(rewriting.rewritten(ChannelShuffle(), graph)) == ["Gather"]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_split(rewriting, data):
    split = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    order = data.draw(st.permutations(range(len(split))))
    batch, channels, axes = data.draw(st.integers(1, 2)), math.prod(split), len(split)
    parts = ", ".join(map(str, [batch, *split, 2, 3]))
    permutation = ", ".join(map(str, [0, *(axis + 1 for axis in order), axes + 1, axes + 2]))
    graph = rewriting.graph(
        f"main (float[{batch},{channels},2,3] x) => (float[{batch},{channels},2,3] y)"
        f"<int64[{axes + 3}] split = {{{parts}}}, int64[4] joined = {{{batch}, {channels}, 2, 3}}>"
        f"{{ s = Reshape (x, split)  t = Transpose <perm=[{permutation}]> (s)  y = Reshape (t, joined) }}"
    )
    assert rewriting.operators(rewriting.rewritten(ChannelShuffle(), graph)) == ["Gather"]
