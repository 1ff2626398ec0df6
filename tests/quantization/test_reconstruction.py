"""Weights of few bits that make up for each other, against those rounded each to its nearest number."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.conftest import Model

from lepton_compile.model import Graph, import_model
from lepton_compile.quantization.recipe import INT4_WEIGHTS, INT8_WEIGHTS, WEIGHT_BITS, Recipe, follow
from lepton_compile.quantization.reconstruction import reconstructed

Feed = dict[str, np.ndarray]


def deep(layers: int = 5) -> tuple[Model, list[str]]:
    """Products of inputs that depend on each other, one behind the other, with a convolution first."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(2, 6, 8, 8)
    mixed = model.node("Conv", x, model.constant(random.standard_normal((48, 6, 1, 1)) / 3), name="conv")
    value = model.node("Transpose", model.node("Relu", mixed), perm=[0, 2, 3, 1])
    for number in range(layers):
        value = model.node("MatMul", value, model.constant(random.standard_normal((48, 48)) / 5), name=f"m{number}")
        value = model.node("Relu", value)
    model.output(model.node("Gemm", model.node("Flatten", value), model.weight(3072, 4), name="gemm"))
    return model, ["node_conv", *(f"node_m{number}" for number in range(layers))]


def samples(model: Model, count: int) -> list[Feed]:
    random = np.random.default_rng(1)
    return [
        {name: random.standard_normal(x.shape).astype(np.float32) for name, x in model.inputs.items()}
        for _ in range(count)
    ]


def error(graph: Graph, original: Graph, given: list[Feed]) -> float:
    one, other = graph.session(), original.session()
    (name,) = (tensor.name for tensor in original.gs.outputs)
    lost = [one.run(each)[name] - other.run(each)[name] for each in given]
    return float(np.sqrt(sum((each**2).sum() for each in lost)))


@pytest.mark.parametrize(("precision", "most"), [(INT8_WEIGHTS, 0.5), (INT4_WEIGHTS, 0.6)])
def test_less_is_lost(precision: str, most: float) -> None:
    model, layers = deep()
    graph, given = import_model(model.proto()), samples(model, 24)
    precisions = {name: precision if "conv" not in name else INT8_WEIGHTS for name in layers}
    bits = {name: WEIGHT_BITS[each] for name, each in precisions.items()}
    nearest = follow(Recipe(precisions, {}), graph.copy())
    approximate = nearest.copy()
    rounding = reconstructed(graph, approximate, bits, given[:16])
    assert set(rounding) == set(layers)
    assert rounding == reconstructed(graph, nearest.copy(), bits, given[:16])
    followed = follow(Recipe(precisions, {}, rounding=rounding), graph.copy())
    others = given[16:]
    assert error(followed, graph, others) < most * error(nearest, graph, others)
    # What a plan says of it is what was decided.
    assert error(followed, approximate, others) < 1e-4 * error(nearest, graph, others)


def test_later_layers_make_up_for_earlier_ones() -> None:
    """A layer of 8 bits behind one of 4 that is not rounded anew takes some of the loss back."""
    model, (_, *layers) = deep(3)
    graph, given = import_model(model.proto()), samples(model, 24)
    precisions = dict.fromkeys(layers, INT8_WEIGHTS) | {layers[0]: INT4_WEIGHTS}
    nearest = follow(Recipe(precisions, {}), graph.copy())
    rounding = reconstructed(graph, nearest.copy(), dict.fromkeys(layers[1:], 8), given[:16])
    followed = follow(Recipe(precisions, {}, rounding=rounding), graph.copy())
    others = given[16:]
    assert error(followed, graph, others) < 0.8 * error(nearest, graph, others)


def test_weights_that_read_nothing_stay() -> None:
    """Of channels that are always zero samples say nothing: their weights are the nearest integers."""
    model = Model()
    x = model.input(4, 16)
    silent = np.where(np.arange(16) < 8, 1.0, 0.0)
    read = model.node("Mul", x, model.constant(silent))
    model.output(model.node("MatMul", read, model.weight(16, 12), name="matmul"))
    graph = import_model(model.proto())
    precisions = {"node_matmul": INT8_WEIGHTS}
    nearest = follow(Recipe(precisions, {}), graph.copy())
    rounding = reconstructed(graph, nearest.copy(), {"node_matmul": 8}, samples(model, 8))
    followed = follow(Recipe(precisions, {}, rounding=rounding), graph.copy())

    def integers(of: Graph) -> np.ndarray:
        (node,) = (node for node in of.gs.nodes if node.op == "DequantizeLinear")
        return node.inputs[0].values

    assert (integers(followed)[8:] == integers(nearest)[8:]).all()
    assert (integers(followed)[:8] != integers(nearest)[:8]).any()
