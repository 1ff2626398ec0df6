"""Statistics of a normalization, estimated again behind what channels were removed from."""

from __future__ import annotations

import numpy as np
from lowering.conftest import Model
from pruning.test_repair import samples

from lepton_compile.model import Graph, import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import apply, find_repair


def net() -> tuple[Graph, str]:
    """A normalization that cannot be folded, as pooling lies in front of it, and its output."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.node("Relu", model.node("Conv", model.input(1, 4, 8, 8), model.weight(12, 4, 3, 3), model.weight(12)))
    x = model.node("Conv", x, model.weight(6, 12, 3, 3), model.weight(6))
    x = model.node("AveragePool", x, kernel_shape=[2, 2])
    parameters = [model.constant(random.uniform(0.5, 2, 6)) for _ in range(4)]
    normalized = model.node("BatchNormalization", x, *parameters)
    model.output(model.node("Conv", model.node("Relu", normalized), model.weight(3, 6, 1, 1)))
    return import_model(model.proto()), normalized


def moments(graph: Graph, name: str, given: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([graph.run(each, [name])[name] for each in given])
    return values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))


def test_outputs_have_the_originals_mean_and_variance() -> None:
    graph, name = net()
    given = samples(graph, 40)
    structure = find_groups(graph)
    channels = set(structure.prunable[0].channels[::2])
    pruned = remove(graph.copy(), structure, channels)
    before = moments(graph, name, given)
    assert not np.allclose(moments(pruned, name, given)[1], before[1], rtol=0.05)
    repair = find_repair(graph, pruned.copy(), structure, channels, given)
    (node,) = (node for node in graph.gs.nodes if node.op == "BatchNormalization")
    assert node.inputs[1].name in repair.weights and node.name in repair.offsets
    for found, wanted in zip(moments(apply(repair, pruned), name, given), before, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


def test_of_few_vectors_nothing_is_known() -> None:
    """The mean of fewer would tell what a sample was."""
    graph, _ = net()
    structure = find_groups(graph)
    channels = set(structure.prunable[0].channels[::2])
    repair = find_repair(graph, remove(graph.copy(), structure, channels), structure, channels, samples(graph, 1))
    (node,) = (node for node in graph.gs.nodes if node.op == "BatchNormalization")
    assert node.inputs[1].name not in repair.weights
