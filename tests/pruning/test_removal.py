"""Removing channels, against the original with those channels masked, on nets of every kind of operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from lowering.conftest import Model
from pruning.masking import masked

from lepton_compile.model import Graph, import_model
from lepton_compile.pruning.groups import Structure, find_groups
from lepton_compile.pruning.removal import remove


def chosen(structure: Structure, random: np.random.Generator) -> set[int]:
    """Some channels of some groups, but not all of any."""
    found: set[int] = set()
    for group in structure.prunable:
        count = int(random.integers(0, len(group.channels)))
        found |= set(random.choice(group.channels, count, replace=False).tolist())
    return found


def check(graph: Graph, seed: int = 0, times: int = 5) -> Structure:
    structure = find_groups(graph)
    random = np.random.default_rng(seed)
    for _ in range(times):
        channels = chosen(structure, random)
        pruned = remove(graph.copy(), structure, channels)
        pruned.check()
        feed = {tensor.name: random.standard_normal(tensor.shape).astype(np.float32) for tensor in graph.gs.inputs}
        expected = masked(graph, structure, channels).run(feed)
        for name, value in pruned.run(feed).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())
    return structure


def convolution(model: Model, x: str, before: int, after: int, size: int = 3, **attributes: object) -> str:
    weights = model.weight(after, before // int(attributes.get("group", 1)), size, size)  # type: ignore[call-overload]
    pads = [size // 2] * 4
    return model.node("Conv", x, weights, model.weight(after), pads=pads, **attributes)


def channels_last(model: Model, x: str) -> str:
    return model.node("Transpose", x, perm=[0, 2, 3, 1])


def end(model: Model, x: str, channels: int) -> Graph:
    """A convolution to three channels, which are the answer."""
    model.output(convolution(model, x, channels, 3))
    return import_model(model.proto())


def residual(model: Model, x: str) -> tuple[str, int]:
    x = model.node("Relu", convolution(model, x, 4, 12))
    inner = convolution(model, model.node("Relu", convolution(model, x, 12, 8)), 8, 12)
    return model.node("Relu", model.node("Add", inner, x)), 12


def concat(model: Model, x: str) -> tuple[str, int]:
    one, other = convolution(model, x, 4, 6), convolution(model, x, 4, 10)
    joined = model.node("Concat", one, model.node("MaxPool", other, kernel_shape=[3, 3], pads=[1] * 4), axis=1)
    scale = [model.weight(16) for _ in range(3)]
    normalized = model.node("BatchNormalization", joined, *scale, model.constant(np.linspace(1, 2, 16)))
    # A part that crosses where both meet.
    bounds = [model.constant(each, "int64") for each in ([4], [12], [1])]
    return model.node("Slice", normalized, *bounds), 8


def split(model: Model, x: str) -> tuple[str, int]:
    x = convolution(model, x, 4, 18)
    one, other, rest = model.node("Split", x, model.constant([4, 4, 10], "int64"), outputs=3, axis=1)
    added = model.node("Add", one, other)
    return model.node("Concat", added, model.node("Sigmoid", rest), axis=1), 14


def squeeze_excite(model: Model, x: str) -> tuple[str, int]:
    x = model.node("HardSwish", convolution(model, x, 4, 12))
    gate = model.node("GlobalAveragePool", x)
    gate = model.node("Relu", convolution(model, gate, 12, 6, 1))
    gate = model.node("HardSigmoid", convolution(model, gate, 6, 12, 1))
    return model.node("Mul", x, gate), 12


def squeeze_excite_of_products(model: Model, x: str) -> tuple[str, int]:
    x = convolution(model, x, 4, 12)
    flat = model.node("Reshape", model.node("GlobalAveragePool", x), model.constant([0, -1], "int64"))
    inner = model.node("Gemm", flat, model.weight(6, 12), model.weight(6), transB=1)
    gate = model.node("MatMul", model.node("Relu", inner), model.weight(6, 12))
    gate = model.node("Unsqueeze", model.node("Sigmoid", gate), model.constant([2, 3], "int64"))
    return model.node("Mul", x, gate), 12


def depthwise(model: Model, x: str) -> tuple[str, int]:
    x = convolution(model, x, 4, 10, 1)
    x = model.node("Clip", convolution(model, x, 10, 10, group=10), model.constant(0.0), model.constant(6.0))
    return convolution(model, x, 10, 20, group=10), 20


def grouped(model: Model, x: str) -> tuple[str, int]:
    return model.node("Relu", convolution(model, convolution(model, x, 4, 12), 12, 18, group=3)), 18


def shuffled(model: Model, x: str) -> tuple[str, int]:
    x = convolution(model, x, 4, 12)
    parted = model.node("Reshape", x, model.constant([0, 3, 4, 6, 6], "int64"))
    turned = model.node("Transpose", parted, perm=[0, 2, 1, 3, 4])
    return model.node("Reshape", turned, model.constant([0, 12, 6, 6], "int64")), 12


def gathered(model: Model, x: str) -> tuple[str, int]:
    indices = model.constant([7, 0, 3, 3, -1, 2, 9, 1], "int64")
    x = model.node("Gather", convolution(model, x, 4, 10), indices, axis=1)
    turned = [model.constant(each, "int64") for each in ([-2], [-9], [1], [-1])]
    return model.node("Slice", model.node("Tanh", x), *turned), 7


def depth(model: Model, x: str) -> tuple[str, int]:
    x = model.node("DepthToSpace", convolution(model, x, 4, 24), blocksize=2)
    other = model.node("DepthToSpace", convolution(model, x, 6, 12), blocksize=2, mode="CRD")
    x = model.node("SpaceToDepth", model.node("SpaceToDepth", other, blocksize=2), blocksize=2)
    return x, 48


def upsampled(model: Model, x: str) -> tuple[str, int]:
    x = model.node("ConvTranspose", convolution(model, x, 4, 10), model.weight(10, 8, 2, 2), model.weight(8))
    x = model.node("ConvTranspose", x, model.weight(8, 1, 2, 2), group=8)
    x = model.node("Resize", x, "", "", model.constant([1, 8, 12, 9], "int64"), mode="nearest")
    return model.node("Pad", x, model.constant([0, 0, 1, 0, 0, 0, 0, 2], "int64")), 8


def normalized(model: Model, x: str) -> tuple[str, int]:
    x = convolution(model, x, 4, 12)
    x = model.node("InstanceNormalization", x, model.weight(12), model.weight(12))
    parts = model.node("Reshape", x, model.constant([1, 4, -1], "int64"))
    parts = model.node("InstanceNormalization", parts, model.constant(np.ones(4)), model.constant(np.zeros(4)))
    return model.node("Reshape", parts, model.constant([1, 12, 6, 6], "int64")), 12


def tiled(model: Model, x: str) -> tuple[str, int]:
    x = model.node("Tile", convolution(model, x, 4, 5), model.constant([1, 3, 1, 1], "int64"))
    return model.node("PRelu", x, model.weight(15, 1, 1)), 15


def attention(model: Model, x: str, key_heads: int = 4) -> tuple[str, int]:
    """Of four heads of three features each; keys and values may have fewer."""
    x = model.node("Reshape", channels_last(model, x), model.constant([1, 36, 4], "int64"))
    parts = []
    for heads in (4, key_heads, key_heads):
        part = model.node("Add", model.node("MatMul", x, model.weight(4, 3 * heads)), model.weight(3 * heads))
        part = model.node(
            "Transpose", model.node("Reshape", part, model.constant([1, 36, heads, 3], "int64")), perm=[0, 2, 1, 3]
        )
        if heads < 4:
            part = model.node("Unsqueeze", part, model.constant([2], "int64"))
            part = model.node("Expand", part, model.constant([1, heads, 4 // heads, 36, 3], "int64"))
            part = model.node("Reshape", part, model.constant([1, 4, 36, 3], "int64"))
        parts.append(part)
    scores = model.node("MatMul", parts[0], model.node("Transpose", parts[1], perm=[0, 1, 3, 2]))
    mixed = model.node("MatMul", model.node("Softmax", scores), parts[2])
    joined = model.node(
        "Reshape", model.node("Transpose", mixed, perm=[0, 2, 1, 3]), model.constant([1, 36, 12], "int64")
    )
    out = model.node("Add", model.node("MatMul", joined, model.weight(12, 4)), x)
    inner = model.node("Gelu", model.node("MatMul", out, model.weight(4, 16)))
    out = model.node("Add", model.node("MatMul", inner, model.weight(16, 4)), out)
    back = model.node("Reshape", model.node("Transpose", out, perm=[0, 2, 1]), model.constant([1, 4, 6, 6], "int64"))
    return back, 4


def grouped_queries(model: Model, x: str) -> tuple[str, int]:
    return attention(model, x, 2)


def stream(model: Model, x: str) -> tuple[str, int]:
    """Tokens of twelve features that are normalised together in front of two products, and behind their sum."""
    x = model.node("Reshape", channels_last(model, convolution(model, x, 4, 12)), model.constant([1, 36, 12], "int64"))
    inner = model.node("LayerNormalization", x, model.weight(12), model.weight(12), axis=-1)
    inner = model.node("Gelu", model.node("MatMul", inner, model.weight(12, 16)))
    x = model.node("Add", model.node("MatMul", inner, model.weight(16, 12)), x)
    x = model.node("LayerNormalization", x, model.weight(12), axis=2, epsilon=1e-3)
    return model.node("Reshape", model.node("Transpose", x, perm=[0, 2, 1]), model.constant([1, 12, 6, 6], "int64")), 12


def many_axes(model: Model, x: str) -> tuple[str, int]:
    """Normalizations whose scale has a row for each position, or that take two axes and have no bias."""
    x = model.node("Reshape", channels_last(model, convolution(model, x, 4, 12)), model.constant([1, 36, 12], "int64"))
    x = model.node("LayerNormalization", x, model.weight(36, 12), model.weight(12), axis=-1)
    x = model.node("LayerNormalization", model.node("MatMul", x, model.weight(12, 8)), model.weight(36, 8), "", axis=1)
    x = model.node("MatMul", x, model.weight(8, 12))
    x = model.node("Reshape", x, model.constant([1, 6, 6, 12], "int64"))
    x = model.node("Resize", x, "", "", model.constant([12, 12], "int64"), axes=[1, 2], mode="nearest")
    return model.node("Transpose", x, perm=[0, 3, 1, 2]), 12


def spelled_out(model: Model, x: str) -> tuple[str, int]:
    """Channels divided by their deviation, and by the root of their mean square."""
    x = channels_last(model, convolution(model, x, 4, 12))
    axes, two = model.constant([-1], "int64"), model.constant(2.0)
    centred = model.node("Sub", x, model.node("ReduceMean", x, axes))
    variance = model.node("ReduceMean", model.node("Pow", centred, two), axes)
    normal = model.node("Div", centred, model.node("Sqrt", model.node("Add", variance, model.constant(1e-5))))
    x = model.node("Add", model.node("Mul", normal, model.weight(12)), x)
    squares = model.node("Add", model.node("ReduceMean", model.node("Mul", x, x), axes), model.constant(1e-5))
    x = model.node("Mul", model.node("Div", x, model.node("Sqrt", squares)), model.weight(12))
    return model.node("Transpose", x, perm=[0, 3, 1, 2]), 12


def recurrent(model: Model, x: str, kind: str = "LSTM", gates: int = 4) -> tuple[str, int]:
    x = model.node("Reshape", convolution(model, x, 4, 6), model.constant([1, 6, 36], "int64"))
    x = model.node("Transpose", x, perm=[2, 0, 1])
    weights = model.weight(2, gates * 5, 6), model.weight(2, gates * 5, 5), model.weight(2, gates * 10)
    y, _ = model.node(kind, x, *weights, outputs=2, hidden_size=5, direction="bidirectional")
    y = model.node("Reshape", model.node("Transpose", y, perm=[2, 1, 3, 0]), model.constant([1, 10, 6, 6], "int64"))
    return y, 10


def gated(model: Model, x: str) -> tuple[str, int]:
    return recurrent(model, x, "GRU", 3)


NETS: dict[Callable[[Model, str], tuple[str, int]], list[int]] = {
    residual: [8, 12],
    concat: [],
    split: [4, 10],
    squeeze_excite: [6, 12],
    squeeze_excite_of_products: [6, 12],
    depthwise: [10],
    grouped: [3],
    shuffled: [3],
    gathered: [],
    depth: [],
    upsampled: [8, 10],
    normalized: [4],
    tiled: [5],
    attention: [4, 16],
    grouped_queries: [2, 16],
    stream: [12, 16],
    spelled_out: [12],
    many_axes: [12, 12],
    recurrent: [5, 6],
    gated: [5, 6],
}


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_what_is_left_answers_as_the_original_without_the_channels(
    net: Callable[[Model, str], tuple[str, int]],
) -> None:
    model = Model()
    graph = end(model, *net(model, model.input(1, 4, 6, 6)))
    structure = check(graph)
    counts = sorted(len(group.channels) for group in structure.prunable)
    assert counts == NETS[net] or (not NETS[net] and counts)
    reasons = [group.frozen for group in structure.groups if group.frozen]
    assert any("output of the model" in reason for reason in reasons)


def test_a_slice_that_goes_down_to_where_nothing_is_left() -> None:
    model = Model()
    x = convolution(model, model.input(1, 4, 6, 6), 4, 12)
    bounds = [model.constant(each, "int64") for each in ([11], [3], [1], [-1])]
    turned = convolution(model, model.node("Slice", model.node("Relu", x), *bounds), 8, 3)
    model.output(turned, convolution(model, x, 12, 3))
    graph = import_model(model.proto())
    structure = find_groups(graph)
    (name, axis), *_ = structure.prunable[0].places
    channels = set(structure.axes[name][axis][:4].tolist())
    pruned = remove(graph.copy(), structure, channels)
    pruned.check()
    feed = {tensor.name: np.ones(tensor.shape, np.float32) for tensor in graph.gs.inputs}
    expected = masked(graph, structure, channels).run(feed)
    for output, value in pruned.run(feed).items():
        np.testing.assert_allclose(value, expected[output], rtol=1e-4, atol=1e-5)


def test_what_a_group_goes_through_can_be_looked_at() -> None:
    model = Model()
    graph = end(model, *residual(model, model.input(1, 4, 6, 6)))
    structure = find_groups(graph)
    view = structure.networkx(graph)
    groups = {name: each for name, each in view.nodes(data=True) if each["kind"] == "group"}
    assert sorted(each["channels"] for each in groups.values() if not each["frozen"]) == [8, 12]
    (wide,) = (name for name, each in groups.items() if each["channels"] == 12)
    through = [view.nodes[node]["op"] for node in view.neighbors(wide)]
    assert sorted(through) == ["Add", *["Conv"] * 4, *["Relu"] * 2]
    (reader,) = (node for node in view.neighbors(wide) if node == graph.gs.nodes[-1].name)
    assert (graph.gs.nodes[-1].inputs[1].name, 1) in view.edges[wide, reader]["places"]


def test_a_mean_that_is_an_answer_keeps_its_channels() -> None:
    model = Model()
    x = model.node("ReduceMean", convolution(model, model.input(1, 4, 6, 6), 4, 8), model.constant([1], "int64"))
    graph = end(model, x, 1)
    assert any("(ReduceMean) takes all channels together" in each.frozen for each in find_groups(graph).groups)


def test_an_unknown_operator_freezes_what_it_reads() -> None:
    model = Model()
    x = convolution(model, model.input(1, 4, 6, 6), 4, 8)
    graph = end(model, model.node("CumSum", x, model.constant(1, "int64")), 8)
    structure = find_groups(graph)
    assert not structure.prunable
    assert any(
        "(CumSum) is an operator that channels are not followed through" in each.frozen for each in structure.groups
    )
