"""Which channels go, and how what is left makes up for them."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.conftest import Model

from lepton_compile.model import Graph, import_model
from lepton_compile.pruning.fitting import EVERYWHERE, Limits, fit
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import apply, find_repair
from lepton_compile.pruning.telling import followed, rounded, told

Feed = dict[str, np.ndarray]


def correlated(layers: int = 3, width: int = 16) -> Graph:
    """Convolutions whose channels depend on each other, with a depthwise one and a product behind."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(1, 4, 8, 8)
    before = 4
    for _ in range(layers):
        weights = random.standard_normal((width, before, 3, 3)) / np.sqrt(4 * before)
        x = model.node("Relu", model.node("Conv", x, model.constant(weights), model.weight(width), pads=[1] * 4))
        before = width
    x = model.node("Conv", x, model.weight(width, 1, 3, 3), pads=[1] * 4, group=width)
    mixed = model.node("Transpose", model.node("Relu", x), perm=[0, 2, 3, 1])
    x = model.node("Relu", model.node("MatMul", mixed, model.weight(width, 12)))
    model.output(model.node("Gemm", model.node("Flatten", x), model.weight(768, 5), model.weight(5)))
    return import_model(model.proto())


def samples(graph: Graph, count: int) -> list[Feed]:
    random = np.random.default_rng(1)
    (x,) = graph.gs.inputs
    smooth = random.standard_normal((count, *x.shape[:2], 2, 2)).repeat(4, axis=-1).repeat(4, axis=-2)
    return [{x.name: (each + 0.1 * random.standard_normal(x.shape)).astype(np.float32)} for each in smooth]


def error(graph: Graph, original: Graph, given: list[Feed]) -> float:
    (name,) = (tensor.name for tensor in original.gs.outputs)
    pairs = [(graph.run(each)[name], original.run(each)[name]) for each in given]
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)))


def least(graph: Graph, by: Importance, given: list[Feed], share: float) -> set[int]:
    """The channels of each group that matter least."""
    every = orders(graph, find_groups(graph), by, given)
    return {channel for order in every for channel in order.channels[: int(share * len(order.channels))]}


def test_what_is_left_makes_up_for_what_is_removed() -> None:
    graph = correlated()
    given = samples(graph, 220)
    fitting, others = given[:200], given[200:]
    structure = find_groups(graph)
    channels = least(graph, Importance.ACTIVATION, fitting, 0.25)
    pruned = remove(graph.copy(), structure, channels)
    repaired = apply(find_repair(graph, pruned.copy(), structure, channels, fitting), pruned.copy())
    repaired.check()
    assert error(repaired, graph, others) < 0.65 * error(pruned, graph, others)


def test_channels_that_others_tell_cost_nothing() -> None:
    """A channel that is twice another one: what reads both can read the other alone."""
    random = np.random.default_rng(0)
    model = Model()
    weights = random.standard_normal((8, 4, 3, 3))
    weights[5] = 2 * weights[2]
    x = model.node("Relu", model.node("Conv", model.input(1, 4, 8, 8), model.constant(weights)))
    model.output(model.node("Conv", x, model.weight(6, 8, 3, 3), model.weight(6)))
    graph = import_model(model.proto())
    given = samples(graph, 20)
    structure = find_groups(graph)
    (group,) = structure.prunable
    (order,) = orders(graph, structure, Importance.RECONSTRUCTION, given)
    first, *others = order.channels
    # Once one of them is gone, the other matters.
    assert group.channels.index(first) in (2, 5) and order.costs[0] < 0.1 * order.costs[1]
    assert group.channels.index(others[0]) not in (2, 5)
    pruned = remove(graph.copy(), structure, {first})
    assert error(pruned, graph, given) > 0.1
    repaired = apply(find_repair(graph, pruned.copy(), structure, {first}, given[:15]), pruned)
    assert error(repaired, graph, given[15:]) < 0.01


def test_transposed_convolutions_make_up_for_channels() -> None:
    """In front of one and behind it, with taps that meet and taps that do not."""
    random = np.random.default_rng(0)
    for size, stride in ((2, 2), (4, 2), (3, 1)):
        model = Model()
        weights = random.standard_normal((8, 4, 3, 3))
        weights[5] = 2 * weights[2]
        x = model.node("Relu", model.node("Conv", model.input(1, 4, 8, 8), model.constant(weights), pads=[1] * 4))
        x = model.node("ConvTranspose", x, model.weight(8, 6, size, size), model.weight(6), strides=[stride] * 2)
        model.output(model.node("Conv", x, model.weight(3, 6, 1, 1)))
        graph = import_model(model.proto())
        given = samples(graph, 40)
        structure = find_groups(graph)
        first = orders(graph, structure, Importance.RECONSTRUCTION, given)[0].channels[0]
        pruned = remove(graph.copy(), structure, {first})
        assert error(pruned, graph, given) > 0.1
        repaired = apply(find_repair(graph, pruned.copy(), structure, {first}, given[:30]), pruned)
        assert error(repaired, graph, given[30:]) < 0.01


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_states_make_up_for_units(direction: str) -> None:
    """A unit that computes what another one does: what reads both can read the other alone, the gates included."""
    random = np.random.default_rng(0)
    model = Model()
    directions = 2 if direction == "bidirectional" else 1
    weights, states, bias = (random.standard_normal((directions, 3, 8, *rest)) for rest in ((5,), (8,), ()))
    bias = np.stack([bias, random.standard_normal(bias.shape)], axis=1)
    for each in (weights, states):
        each[:, :, 6] = each[:, :, 3]
    bias[:, :, :, 6] = bias[:, :, :, 3]
    constants = weights.reshape(directions, 24, 5), states.reshape(directions, 24, 8), bias.reshape(directions, 48)
    x = model.input(12, 1, 5)
    attributes = {"hidden_size": 8, "linear_before_reset": 1, "direction": direction}
    y, _ = model.node("GRU", x, *map(model.constant, constants), outputs=2, **attributes)
    model.output(model.node("MatMul", y, model.weight(8, 3)))
    graph = import_model(model.proto())
    given = [{"x0": random.standard_normal((12, 1, 5)).astype(np.float32)} for _ in range(40)]
    structure = find_groups(graph)
    (group,) = structure.prunable
    (order,) = orders(graph, structure, Importance.RECONSTRUCTION, given)
    first = order.channels[0]
    assert group.channels.index(first) in (3, 6)
    pruned = remove(graph.copy(), structure, {first})
    assert error(pruned, graph, given) > 0.1
    repaired = apply(find_repair(graph, pruned.copy(), structure, {first}, given[:30]), pruned)
    repaired.check()
    assert error(repaired, graph, given[30:]) < 0.02


def test_what_a_rectifier_cuts_off_need_not_be_met() -> None:
    random = np.random.default_rng(0)
    read = random.standard_normal((1, 4000, 12)).astype(np.float32)
    wanted = (read @ random.standard_normal((12, 5)) - 1).astype(np.float32)
    left = read[:, :, :8]

    def lost(limits: Limits) -> float:
        found = fit([left[:, :3000]], [wanted[:, :3000]], np.zeros((1, 8, 5), np.float32), limits)
        assert found is not None
        made = left[:, 3000:] @ found.weights + found.offsets(found.weights)[:, None]
        return float(np.square(np.clip(made, 0, 2) - np.clip(wanted[:, 3000:], 0, 2)).sum())

    assert lost(Limits(0, 2)) < 0.9 * min(lost(EVERYWHERE), lost(Limits(-9, 9)))


@pytest.mark.parametrize("by", list(Importance), ids=lambda by: by.value)
def test_what_matters_least_goes_first(by: Importance) -> None:
    """Of channels that are next to zero nothing is missed."""
    random = np.random.default_rng(0)
    model = Model()
    weights = random.standard_normal((10, 4, 3, 3))
    weights[[1, 4, 7]] *= 1e-3
    x = model.node("Relu", model.node("Conv", model.input(1, 4, 8, 8), model.constant(weights)))
    model.output(model.node("Conv", x, model.weight(6, 10, 3, 3)))
    graph = import_model(model.proto())
    given = samples(graph, 8)
    (group,) = find_groups(graph).prunable
    channels = least(graph, by, given, 0.3)
    assert sorted(map(group.channels.index, channels)) == [1, 4, 7]


def test_a_repair_of_nothing_changes_nothing() -> None:
    graph = correlated()
    structure = find_groups(graph)
    found = find_repair(graph, graph.copy(), structure, set(), samples(graph, 3))
    assert not found.weights and not found.offsets


@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (5, 7), (2, 1, 3, 3), (1, 1)])
def test_weights_are_told_exactly(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weights = (
        random.standard_normal(shape) * 10.0 ** random.integers(-30, 30, (shape[0], *[1] * (len(shape) - 1)))
    ).astype(np.float32)
    weights[0] = 0
    near = rounded(weights)
    assert (
        np.abs(near - weights) <= 2**-15 * np.abs(weights).max(axis=tuple(range(1, len(shape))), keepdims=True)
    ).all()
    assert (followed(told(near), shape) == near).all()
    with pytest.raises(ValueError, match="of other weights"):
        followed(told(near), (*shape, 2))
    with pytest.raises(ValueError, match="cannot be read"):
        followed("no text", shape)
