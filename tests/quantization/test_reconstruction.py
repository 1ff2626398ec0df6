"""Weights of few bits that make up for each other, against those rounded each to its nearest number."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.conftest import Model

from lepton_compile.model import Graph, import_model
from lepton_compile.quantization.recipe import INT4_WEIGHTS, INT8_WEIGHTS, WEIGHT_BITS, Recipe, follow
from lepton_compile.quantization.reconstruction import NEAREST, reconstructed
from lepton_compile.rewriting.patterns import scopes

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
    made_up = reconstructed(graph, approximate, bits, given[:16])
    assert set(made_up.rounding) == set(made_up.corrections) == set(layers)
    assert made_up == reconstructed(graph, nearest.copy(), bits, given[:16])
    followed = follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=made_up.corrections), graph.copy())
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
    made_up = reconstructed(graph, nearest.copy(), dict.fromkeys(layers[1:], 8), given[:16])
    followed = follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=made_up.corrections), graph.copy())
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
    made_up = reconstructed(graph, nearest.copy(), {"node_matmul": 8}, samples(model, 8))
    followed = follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=made_up.corrections), graph.copy())

    def integers(of: Graph) -> np.ndarray:
        (node,) = (node for node in of.gs.nodes if node.op == "DequantizeLinear")
        return node.inputs[0].values

    assert (integers(followed)[8:] == integers(nearest)[8:]).all()
    assert (integers(followed)[:8] != integers(nearest)[:8]).any()


def test_steps_of_recurrent_layers_inside_branches() -> None:
    """Both of a layer's weights, which read its input and the state; the other branch is never taken."""
    random = np.random.default_rng(0)
    model = Model()
    x, h, c = model.input(1, 3, 24), model.input(1, 3, 32), model.input(1, 3, 32)
    known = Model(model)
    mixed = known.node("MatMul", x, known.constant(random.standard_normal((24, 24))), name="mix")
    weights = [known.constant(random.standard_normal((1, 128, inner)) / 5) for inner in (24, 32)]
    y = known.node("LSTM", mixed, *weights, "", "", h, c, hidden_size=32, name="lstm")
    steps = known.node("Squeeze", y, known.constant([1], "int64"))
    known.output(known.node("MatMul", steps, known.constant(random.standard_normal((32, 8))), name="last"))
    idle = Model(model)
    idle.output(idle.node("MatMul", x, idle.constant(random.standard_normal((24, 8))), name="idle"))
    total = model.node("ReduceSum", x, keepdims=0)
    condition = model.node("Less", total, model.constant(np.array(1e9)))
    model.output(model.node("Relu", model.branch(condition, known, idle)))
    graph, given = import_model(model.proto()), samples(model, 60)
    nodes = [node.name for scope in scopes(graph) for node in scope.nodes if node.op in ("LSTM", "MatMul")]
    assert len(nodes) == 4
    bits = dict.fromkeys(nodes, 8)
    precisions = dict.fromkeys(nodes, INT8_WEIGHTS)
    nearest = follow(Recipe(precisions, {}), graph.copy())
    made_up = reconstructed(graph, nearest.copy(), bits, given[:50])
    assert sorted(len(text.split(" ")) for text in made_up.rounding.values()) == [1, 1, 2]
    followed = follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=made_up.corrections), graph.copy())
    others = given[50:]
    assert error(followed, graph, others) < 0.8 * error(nearest, graph, others)


def test_a_rounding_of_other_weights_is_refused() -> None:
    model, layers = deep(1)
    graph, given = import_model(model.proto()), samples(model, 4)
    precisions = dict.fromkeys(layers, INT8_WEIGHTS)
    nearest = follow(Recipe(precisions, {}), graph.copy())
    made_up = reconstructed(graph, nearest, dict.fromkeys(layers, 8), given)
    twice = {name: f"{text} {text}" for name, text in made_up.rounding.items()}
    with pytest.raises(ValueError, match="is of 2 weights; it has 1"):
        follow(Recipe(precisions, {}, rounding=twice), graph.copy())


def test_a_branch_that_rounding_decides() -> None:
    """A sample belongs to the branch that the original takes, also where rounded weights would take the other."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(1, 16)
    first = model.node("MatMul", x, model.constant(random.standard_normal((16, 16))), name="first")
    sides = [Model(model), Model(model)]
    for side in sides:
        side.output(side.node("MatMul", first, side.constant(random.standard_normal((16, 4)))))
    total = model.node("ReduceSum", first, keepdims=0)
    model.output(model.node("Relu", model.branch(model.node("Less", total, model.constant(np.array(0.0))), *sides)))
    graph, given = import_model(model.proto()), samples(model, 300)
    nodes = [node.name for scope in scopes(graph) for node in scope.nodes if node.op == "MatMul"]
    precisions = dict.fromkeys(nodes, INT4_WEIGHTS)
    nearest = follow(Recipe(precisions, {}), graph.copy())
    made_up = reconstructed(graph, nearest.copy(), dict.fromkeys(nodes, 4), given)
    assert len(made_up.rounding) == 3
    followed = follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=made_up.corrections), graph.copy())
    others = samples(model, 400)[300:]
    assert error(followed, graph, others) < error(nearest, graph, others)


def test_what_stays_the_nearest_integers() -> None:
    """Weights that two nodes read, a recurrent layer of a known input, and one whose moments overflow."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(4, 32)
    shared = model.constant(random.standard_normal((32, 32)))
    twice = model.node("MatMul", model.node("MatMul", x, shared), shared)
    known = model.constant(random.standard_normal((1, 3, 16)))
    weights = [model.constant(random.standard_normal((1, 64, 16)) / 4) for _ in range(2)]
    state = model.node("LSTM", known, *weights, hidden_size=16)
    huge = model.node("Mul", x, model.constant(np.array(1e19)))
    overflowing = model.node("MatMul", huge, model.constant(random.standard_normal((32, 8)) * 1e-19))
    model.output(twice, state, overflowing)
    graph = import_model(model.proto())
    nodes = [node.name for node in graph.gs.nodes if node.op in ("LSTM", "MatMul")]
    precisions = dict.fromkeys(nodes, INT8_WEIGHTS)
    nearest = follow(Recipe(precisions, {}), graph.copy())
    assert reconstructed(graph, nearest, dict.fromkeys(nodes, 8), samples(model, 8)) == NEAREST


def test_names_that_are_taken() -> None:
    model, layers = deep(1)
    graph = import_model(model.proto())
    tensors = graph.gs.tensors()
    tensors["m0"].name = "node_conv_1"
    precisions = dict.fromkeys(layers, INT8_WEIGHTS)
    nearest = follow(Recipe(precisions, {}), graph.copy())
    made_up = reconstructed(graph, nearest, dict.fromkeys(layers, 8), samples(model, 4))
    assert set(made_up.rounding) == set(layers)


@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul", "GRU"])
@pytest.mark.parametrize("computed", [False, True])
def test_means_are_kept(operator: str, computed: bool) -> None:
    """Of inputs far from zero the mean of what is lost is most of it; a bias, known or computed, makes up for it."""
    random = np.random.default_rng(0)
    model = Model()
    shape = {"Conv": (1, 12, 4, 4), "GRU": (1, 6, 12)}.get(operator, (6, 12))
    x = model.node("Add", model.input(*shape), model.constant(random.uniform(3, 9, shape[-1])))
    bias = model.constant(random.standard_normal(60 if operator == "GRU" else 10))
    if computed:
        bias = model.node("Mul", model.input(1), bias)
    match operator:
        case "Conv":
            made = model.node("Conv", x, model.weight(10, 12, 1, 1), bias, name="layer")
        case "Gemm":
            made = model.node("Gemm", x, model.weight(10, 12), bias, transB=1, beta=2.0, name="layer")
        case "MatMul":
            made = model.node("MatMul", x, model.weight(12, 10), name="layer")
        case _:
            bias = model.node("Reshape", bias, model.constant([1, 60], "int64"))
            weights = model.weight(1, 30, 12), model.weight(1, 30, 10)
            made = model.node("GRU", x, *weights, bias, hidden_size=10, name="layer")
    model.output(made)
    graph, given = import_model(model.proto()), samples(model, 40)
    precisions = {"node_layer": INT8_WEIGHTS}
    nearest = follow(Recipe(precisions, {}), graph.copy())
    made_up = reconstructed(graph, nearest.copy(), {"node_layer": 8}, given[:32])
    assert bool(made_up.corrections) == (operator != "GRU" or not computed)
    rounded, followed = (
        follow(Recipe(precisions, {}, rounding=made_up.rounding, corrections=offsets), graph.copy())
        for offsets in ({}, made_up.corrections)
    )
    if made_up.corrections:
        assert error(followed, graph, given[32:]) < 0.7 * error(rounded, graph, given[32:])


def test_of_few_vectors_nothing_is_added() -> None:
    """Their mean would tell what a sample was."""
    model = Model()
    model.output(model.node("MatMul", model.input(1, 12), model.weight(12, 10), name="matmul"))
    graph = import_model(model.proto())
    nearest = follow(Recipe({"node_matmul": INT8_WEIGHTS}, {}), graph.copy())
    for count in (31, 32):
        made_up = reconstructed(graph, nearest.copy(), {"node_matmul": 8}, samples(model, count))
        assert bool(made_up.corrections) == (count == 32)
