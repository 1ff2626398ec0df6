"""Which layers give up precision so that a library fits, by sizes that are told."""

from __future__ import annotations

import itertools

import numpy as np
from lowering.conftest import Model

from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import Graph, import_model
from lepton_compile.quantization.calibration import calibrate, corrections_of_weights
from lepton_compile.quantization.recipe import Recipe, follow
from lepton_compile.quantization.shrinking import shrink

CHANNELS = (4, 8, 16, 32)


def convolutions() -> tuple[Graph, Model]:
    model = Model()
    value = model.input(1, CHANNELS[0], 9, 9)
    for number, (inputs, outputs) in enumerate(itertools.pairwise(CHANNELS)):
        weights = np.random.default_rng(number).standard_normal((outputs, inputs, 3, 3))
        value = model.node("Relu", model.node("Conv", value, model.constant(weights)))
    model.output(value)
    return import_model(model.proto()), model


def test_what_kernels_take_besides_is_made_up_for() -> None:
    """Sizes as if each layer's kernel took 3000 bytes more where a layer stays in float32, and 0 else."""
    graph, _ = convolutions()
    layers = [node.name for node in graph.gs.nodes if node.op == "Conv"]
    numbers = {node.name: node.inputs[1].values.size for node in graph.gs.nodes if node.op == "Conv"}

    def size(choice) -> int:
        return sum(numbers[name] if name in choice else 4 * numbers[name] + 3000 for name in layers)

    for budget in range(size(dict.fromkeys(layers, "int8 weights")), size({}), 500):
        found = shrink(graph, budget, size, lambda choice: 0.0, lambda choice: 0.0)
        assert found.assignment is not None
        assert found.size_bytes == size(found.assignment) <= budget


def test_outputs_keep_their_mean() -> None:
    graph, model = convolutions()
    samples = [{name: np.abs(values) + 1 + k / 64 for name, values in model.inputs.items()} for k in range(6)]
    contract = Contract(samples, *metric_of("relative_error"), 0.1)
    calibrate(graph, [], contract)
    name = next(node.name for node in graph.gs.nodes if node.op == "Conv")
    output = next(node.outputs[0].name for node in graph.gs.nodes if node.op == "Relu")
    found = corrections_of_weights(graph, contract)["int8 weights"]

    def mean(corrections) -> np.ndarray:
        made = follow(Recipe({name: "int8 weights"}, {}, {}, corrections), graph.copy())
        made.infer_shapes()
        return made.session([output]).run(samples[0])[output].mean(axis=(0, 2, 3))

    wanted = graph.session([output]).run(samples[0])[output].mean(axis=(0, 2, 3))
    plain, corrected = (np.abs(mean(each) - wanted).max() for each in ({}, {name: found[name]}))
    assert corrected < 0.2 * plain
