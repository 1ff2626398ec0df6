"""How long runs take by how many channels of each group are gone."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs
import pytest
from lowering.conftest import Model

from lepton_compile.model import Graph, import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.latency import seconds_of
from lepton_compile.pruning.uses import Use
from lepton_compile.pruning.widths import units_of

LANES = 8


def by_vectors(graph: Graph) -> Mapping[str, float]:
    """A machine that takes a second for each vector of outputs of a layer and each input."""
    return {node.name: vectors(node) for node in graph.gs.nodes if node.op in ("Conv", "Gemm")}


def vectors(node: gs.Node) -> float:
    outputs, inputs = node.inputs[1].shape[:2]
    return float(-(-outputs // LANES) * inputs)


@pytest.fixture
def use() -> Use:
    """Of a net of 6 and 40 channels behind each other, and 10 outputs: 3 * 1, 6 * 5 and 40 * 2 seconds."""
    model = Model()
    first = model.node("Relu", model.node("Conv", model.input(1, 3, 6, 6), model.weight(6, 3, 1, 1)))
    second = model.node("Relu", model.node("Conv", first, model.weight(40, 6, 1, 1)))
    pooled = model.node("Flatten", model.node("GlobalAveragePool", second))
    model.output(model.node("Gemm", pooled, model.weight(10, 40), transB=1))
    graph = import_model(model.proto())
    structure = find_groups(graph)
    orders = [Order(group.channels, (1.0,) * len(group.channels)) for group in structure.prunable]
    assert [len(order.channels) for order in orders] == [6, 40]
    units = units_of(structure, LANES)
    assert units == [1, 8]
    return seconds_of(graph, structure, orders, units, LANES, by_vectors)


def test_what_is_left_of_a_vector_takes_as_long_as_all_of_it(use: Use) -> None:
    assert use.amount([0, 0]) == pytest.approx(3 + 30 + 80)
    # 34 channels take as many vectors as 40; what reads them takes less for each.
    assert use.amount([0, 6]) == pytest.approx(3 + 30 + 68)
    assert use.amount([0, 8]) == pytest.approx(3 + 24 + 64)
    # Of six channels one vector is left, however many go.
    assert use.amount([3, 0]) == pytest.approx(3 + 15 + 80)


def test_what_is_saved_is_the_difference(use: Use) -> None:
    assert use.saved([0, 0], 1, 8) == pytest.approx(6 + 16)
    assert use.saved([3, 8], 0, 1) == pytest.approx(4)
