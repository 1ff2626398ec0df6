"""What a model's answers lose without channels of a group."""

from __future__ import annotations

import numpy as np
from lowering.conftest import Model
from pruning.test_repair import samples

from lepton_compile.model import import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.sensitivity import by_answers


def test_what_makes_small_channels_of_an_output_counts_as_what_makes_large_ones() -> None:
    """A detector's boxes are hundreds of pixels, its scores less than one, in one output."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(1, 4, 8, 8)
    parts = []
    for scale in (300.0, 0.03):
        first, last = random.standard_normal((16, 4, 3, 3)), scale * random.standard_normal((4, 16, 1, 1)) / 16
        inner = model.node("Relu", model.node("Conv", x, model.constant(first), pads=[1] * 4))
        parts.append(model.node("Conv", inner, model.constant(last)))
    model.output(model.node("Concat", *parts, axis=1))
    graph = import_model(model.proto())
    structure, given = find_groups(graph), samples(graph, 40)
    order = orders(graph, structure, Importance.RECONSTRUCTION, given)
    boxes, scores = (sum(each.costs[:8]) for each in by_answers(graph, structure, order, given))
    assert 0.2 < scores / boxes < 5
