"""Which layers give up precision so that a library fits, by sizes that are told."""

from __future__ import annotations

import itertools

import numpy as np
from lowering.conftest import Model

from lepton_compile.model import Graph, import_model
from lepton_compile.quantization.shrinking import shrink

CHANNELS = (4, 8, 16, 32)


def convolutions() -> Graph:
    model = Model()
    value = model.input(1, CHANNELS[0], 9, 9)
    for number, (inputs, outputs) in enumerate(itertools.pairwise(CHANNELS)):
        weights = np.random.default_rng(number).standard_normal((outputs, inputs, 3, 3))
        value = model.node("Relu", model.node("Conv", value, model.constant(weights)))
    model.output(value)
    return import_model(model.proto())


def test_what_kernels_take_besides_is_made_up_for() -> None:
    """Sizes as if each layer's kernel took 3000 bytes more where a layer stays in float32, and 0 else."""
    graph = convolutions()
    layers = [node.name for node in graph.gs.nodes if node.op == "Conv"]
    numbers = {node.name: node.inputs[1].values.size for node in graph.gs.nodes if node.op == "Conv"}

    def size(choice) -> int:
        return sum(numbers[name] if name in choice else 4 * numbers[name] + 3000 for name in layers)

    for budget in range(size(dict.fromkeys(layers, "int8 weights")), size({}), 500):
        found = shrink(graph, budget, size, lambda choice: 0.0, lambda layer, precision: 0.0)
        assert found.assignment is not None
        assert size(found.assignment) <= budget


def products(sizes: tuple[int, ...] = (64, 64, 64)) -> tuple[Graph, list[str]]:
    """Products of the same size, whose weights may take 4 bits too."""
    model = Model()
    value = model.input(1, sizes[0])
    for inputs, outputs in itertools.pairwise((*sizes, sizes[0])):
        value = model.node("Relu", model.node("MatMul", value, model.weight(inputs, outputs)))
    model.output(value)
    graph = import_model(model.proto())
    return graph, [node.name for node in graph.gs.nodes if node.op == "MatMul"]


BITS = {"int16 weights": 16, "int8 weights": 8, "int4 weights": 4}


def bytes_of(names: list[str], choice) -> int:
    return sum(64 * 64 * BITS.get(choice.get(name, ""), 32) // 8 for name in names)


def test_no_layer_takes_fewer_bits_than_all_have_to() -> None:
    graph, names = products()
    whole = bytes_of(names, {})
    for share, allowed in ((0.5, {"int16 weights"}), (0.25, {"int16 weights", "int8 weights"}), (0.2, set(BITS))):
        found = shrink(graph, int(share * whole), lambda c: bytes_of(names, c), lambda c: 0.0, lambda layer, bits: 1.0)
        assert found.assignment is not None
        assert bytes_of(names, found.assignment) <= share * whole
        assert set(found.assignment.values()) <= allowed


def test_what_costs_least_goes_first() -> None:
    graph, names = products()
    costs = dict(zip(names, (3.0, 1.0, 2.0), strict=True))
    found = shrink(
        graph,
        bytes_of(names, dict.fromkeys(names, "int16 weights") | {names[1]: "int8 weights"}),
        lambda choice: bytes_of(names, choice),
        lambda choice: 0.0,
        lambda layer, precision: costs[layer] * (1e-6 if precision == "int16 weights" else 1.0),
    )
    assert found.assignment == dict.fromkeys(names, "int16 weights") | {names[1]: "int8 weights"}


def test_what_is_not_needed_goes_back() -> None:
    """A layer that is worth its bytes alone is not, beside one that has to go anyway."""
    graph, (large, small, other) = products((64, 64, 16))
    numbers = {node.name: node.inputs[1].values.size for node in graph.gs.nodes if node.op == "MatMul"}
    assert numbers[large] > numbers[small] == numbers[other]

    def size(choice) -> int:
        return sum(count * BITS.get(choice.get(name, ""), 32) // 8 for name, count in numbers.items())

    sixteen = dict.fromkeys(numbers, "int16 weights")
    budget = size(sixteen | {large: "int8 weights"})
    costs = {large: 9.0, small: 1.0, other: 1.0}
    found = shrink(graph, budget, size, lambda c: 0.0, lambda layer, bits: costs[layer] if "8" in bits else 1e-6)
    assert found.assignment == sixteen | {large: "int8 weights"}


def test_costs_that_add_up_as_squares() -> None:
    """One layer of twice the bytes for one and a half of the cost, or two others: the metric takes the others alone."""
    model = Model()
    x = model.input(1, 64)
    large = model.node("MatMul", x, model.weight(64, 128), name="large")
    others = [model.node("MatMul", x, model.weight(64, 64), name=name) for name in ("one", "other")]
    for value in (large, *others):
        model.output(value)
    graph = import_model(model.proto())
    numbers = {node.name: node.inputs[1].values.size for node in graph.gs.nodes if node.op == "MatMul"}
    asked = []

    def size(choice) -> int:
        return sum(count * BITS.get(choice.get(name, ""), 32) // 8 for name, count in numbers.items())

    def excess(choice) -> float:
        asked.append(choice)
        return 1.0 if choice["node_large"] == "int8 weights" else 0.0

    def cost(layer: str, precision: str) -> float:
        return (1.5 if layer == "node_large" else 1.0) * (1e-6 if precision == "int16 weights" else 1.0)

    found = shrink(graph, size(dict.fromkeys(numbers, "int16 weights")) - 2 * 4096, size, excess, cost)
    assert found.assignment is not None and found.assignment["node_large"] == "int16 weights"
    assert asked[0]["node_large"] == "int8 weights" and len(asked) == 2


def test_reasons() -> None:
    graph, names = products()
    whole = bytes_of(names, {})

    def found(share: float):
        return shrink(graph, int(share * whole), lambda c: bytes_of(names, c), lambda c: 1.0, lambda layer, bits: 1.0)

    assert found(1).assignment == {}
    assert "costs too much of the metric" in found(0.3).reason
    assert f"it is {whole // 8 - int(0.1 * whole)} bytes too large" in found(0.1).reason
