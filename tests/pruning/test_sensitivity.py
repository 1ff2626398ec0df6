"""What a model's answers lose without channels of a group."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.conftest import Model
from pruning.test_repair import samples

from lepton_compile.model import import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.sensitivity import by_answers


def test_what_no_known_weights_read_is_worth_what_answers_lose() -> None:
    """Queries and keys meet in a product of two activations."""
    model = Model()
    x = model.input(1, 8, 12)
    query, key, value = (model.node("MatMul", x, model.weight(12, 16)) for _ in range(3))
    scores = model.node("MatMul", query, model.node("Transpose", key, perm=[0, 2, 1]))
    mixed = model.node("MatMul", model.node("Softmax", scores), value)
    model.output(model.node("MatMul", mixed, model.weight(16, 5)))
    graph = import_model(model.proto())
    structure = find_groups(graph)
    random = np.random.default_rng(0)
    given = [{"x0": random.standard_normal((1, 8, 12)).astype(np.float32)} for _ in range(40)]
    found = by_answers(graph, structure, orders(graph, structure, Importance.RECONSTRUCTION, given), given)
    assert len(found) == 2 and all(cost > 0 for order in found for cost in order.costs)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_makes_small_channels_of_an_output_counts_as_what_makes_large_ones(channels_last: bool) -> None:
    """A detector's boxes are hundreds of pixels, its scores less than one, in one output."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(1, 4, 8, 8)
    parts = []
    for scale in (300.0, 0.03):
        first, last = random.standard_normal((16, 4, 3, 3)), scale * random.standard_normal((4, 16, 1, 1)) / 16
        inner = model.node("Relu", model.node("Conv", x, model.constant(first), pads=[1] * 4))
        parts.append(model.node("Conv", inner, model.constant(last)))
    joined = model.node("Reshape", model.node("Concat", *parts, axis=1), model.constant([1, 8, 64], "int64"))
    model.output(model.node("Transpose", joined, perm=[0, 2, 1]) if channels_last else joined)
    graph = import_model(model.proto())
    structure, given = find_groups(graph), samples(graph, 40)
    order = orders(graph, structure, Importance.RECONSTRUCTION, given)
    boxes, scores = (sum(each.costs[:8]) for each in by_answers(graph, structure, order, given))
    assert 0.2 < scores / boxes < 5
