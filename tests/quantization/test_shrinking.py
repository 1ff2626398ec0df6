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
