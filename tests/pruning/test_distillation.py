"""Weights that learn from the original, and when they do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from lowering.conftest import Model
from pruning.test_repair import correlated, error, least, samples

from lepton_compile.model import Graph, import_model
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance
from lepton_compile.pruning.optimizer import FEWEST_SAMPLES, Work, choose, multiply_adds, this_machine
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import NOTHING, Repair, apply, find_repair
from lepton_compile.pruning.repairing import ADAM, LEAST_SQUARES, find_repairs
from lepton_compile.pruning.telling import rounded
from lepton_compile.target import Resources, Target, resolve_target

MACHINE = replace(resolve_target("x86-64-v3"), resources=Resources(4, 4, frequency_hz=10**9, memory_bytes=10**9))
WORK = Work(200, 1e6, 5e5, 10**6)


def pruned(graph: Graph, share: float = 0.5) -> tuple[set[int], Graph]:
    channels = least(graph, Importance.ACTIVATION, samples(graph, 20), share)
    return channels, remove(graph.copy(), find_groups(graph), channels)


def distilled(graph: Graph, start: Repair = NOTHING, epochs: int = 6) -> tuple[Graph, Graph, Repair]:
    """What is left of a graph, that with what Adam learned from the start, and what that is."""
    distillation = pytest.importorskip("lepton_compile.pruning.distillation")
    channels, left = pruned(graph)
    given = samples(graph, 60)
    made = distillation.distil(
        graph, left.copy(), start, find_groups(graph), channels, given[:50], given[50:], epochs=epochs, batch=2
    )
    assert made.after < made.before and made.repair is not None
    return apply(start, left.copy()), apply(made.repair, left.copy()), made.repair


def test_what_learned_from_the_original_is_nearer_to_it() -> None:
    graph = correlated()
    others = samples(graph, 90)[60:]
    before, made, _ = distilled(graph)
    made.check()
    assert error(made, graph, others) < 0.9 * error(before, graph, others)


def test_what_least_squares_found_is_what_it_begins_with() -> None:
    """Offsets of a repair are told with those that are learned, so that both are of the same graph."""
    graph = correlated()
    channels, left = pruned(graph)
    given = samples(graph, 60)
    found = find_repair(graph, left.copy(), find_groups(graph), channels, given[:50])
    # Of offsets that are a little wrong there is something to learn.
    start = replace(found, offsets={name: tuple(each + 0.1 for each in old) for name, old in found.offsets.items()})
    before, made, repair = distilled(graph, start, epochs=1)
    assert start.offsets.keys() <= repair.offsets.keys() and start.weights.keys() <= repair.weights.keys()
    others = samples(graph, 90)[60:]
    # Far nearer to each other than to what no repair was applied to.
    assert error(made, before, others) < 0.3 * error(left, before, others)


def test_normalizations_and_transposed_convolutions_learn() -> None:
    random = np.random.default_rng(0)
    model = Model()
    x = model.node("Conv", model.input(1, 4, 8, 8), model.constant(random.standard_normal((12, 4, 3, 3)) / 6))
    pooled = model.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    scales = [model.constant(random.uniform(0.5, 1.5, 12)), model.weight(12), model.weight(12)]
    x = model.node("Relu", model.node("BatchNormalization", pooled, *scales, model.constant(random.uniform(1, 2, 12))))
    x = model.node("ConvTranspose", x, model.weight(12, 8, 2, 2), model.weight(8), strides=[2, 2])
    model.output(model.node("Sigmoid", model.node("Conv", x, model.weight(3, 8, 1, 1), model.weight(3))))
    graph = import_model(model.proto())
    others = samples(graph, 90)[60:]
    before, made, repair = distilled(graph)
    operators = {node.name: node.op for node in graph.gs.nodes}
    readers = {node.inputs[1].name: node.op for node in graph.gs.nodes if len(node.inputs) > 1}
    assert {readers[name] for name in repair.weights} == {"Conv", "ConvTranspose", "BatchNormalization"}
    assert {operators[name] for name in repair.offsets} >= {"Conv", "BatchNormalization"}
    assert error(made, graph, others) < error(before, graph, others)


def test_offsets_beside_addends_of_each_position_stay() -> None:
    """A matrix is added by Gemm; what is added to all of its rows is told, and not learned."""
    distillation = pytest.importorskip("lepton_compile.pruning.distillation")
    model = Model()
    x = model.node("Relu", model.node("Gemm", model.input(6, 8), model.weight(8, 12), model.weight(6, 12)))
    model.output(model.node("Gemm", x, model.weight(12, 4), model.weight(6, 4)))
    graph = import_model(model.proto())
    random = np.random.default_rng(0)
    given = [{"x0": random.standard_normal((6, 8)).astype(np.float32)} for _ in range(60)]
    structure = find_groups(graph)
    channels = set(structure.prunable[0].channels[:6])
    start = find_repair(graph, remove(graph.copy(), structure, channels), structure, channels, given[:50])
    left = remove(graph.copy(), structure, channels)
    made = distillation.distil(
        graph, left.copy(), start, structure, channels, given[:50], given[50:], epochs=3, batch=2
    )
    assert made.repair is not None and made.after < made.before
    assert start.offsets and all(made.repair.offsets[name] == told for name, told in start.offsets.items())


def test_the_same_is_learned_again_and_told_exactly() -> None:
    graph = correlated()
    (_, _, one), (_, _, other) = (distilled(graph, epochs=2) for _ in range(2))
    assert one.offsets == other.offsets
    for name, values in one.weights.items():
        np.testing.assert_array_equal(values, other.weights[name])
        np.testing.assert_array_equal(values, rounded(values))


def test_time_ends_it() -> None:
    distillation = pytest.importorskip("lepton_compile.pruning.distillation")
    graph = correlated()
    channels, left = pruned(graph)
    given = samples(graph, 60)
    arguments = graph, left, NOTHING, find_groups(graph), channels, given[:40], given[40:]
    made = distillation.distil(*arguments, epochs=10**6, batch=4, seconds=1.5)
    assert made.late and made.epochs < 1000


def test_a_shallow_net_learns_more_by_larger_steps() -> None:
    distillation = pytest.importorskip("lepton_compile.pruning.distillation")
    graph = correlated()
    channels, left = pruned(graph)
    given = samples(graph, 60)
    one, several = (
        distillation.distil(
            graph,
            left.copy(),
            NOTHING,
            find_groups(graph),
            channels,
            given[:50],
            given[50:],
            epochs=6,
            batch=2,
            cycles=cycles,
        )
        for cycles in (1, 3)
    )
    assert several.after < one.after and several.rate > one.rate
    assert several.before == one.before


@pytest.mark.parametrize(
    ("work", "machine", "installed", "why"),
    [
        (replace(WORK, samples=FEWEST_SAMPLES - 1), MACHINE, True, "39 samples are fewer than the 40"),
        (WORK, MACHINE, False, "extra 'distillation', which is not installed"),
        (WORK, None, True, "what this machine can compute is not known"),
        (replace(WORK, activations=10**9), MACHINE, True, "activations of one sample are 1000 MB, of 1000 MB"),
        (replace(WORK, original=1e11), MACHINE, True, "in 60 s Adam would not pass 4 times"),
    ],
)
def test_where_least_squares_are_chosen(work: Work, machine: Target | None, installed: bool, why: str) -> None:
    choice = choose(work, machine, installed=installed)
    assert choice.epochs == 0 and choice.reason.startswith("least squares, as ") and why in choice.reason


def test_where_adam_is_chosen() -> None:
    rich = choose(WORK, MACHINE, installed=True)
    assert rich.epochs == 20 and rich.cycles == 3 and rich.batch == 6
    assert rich.threads == 1  # a step is too little for more
    assert "200 samples take 0.5 billion multiply-adds a pass" in rich.reason
    # On a slower machine, or with less memory, as much as there is.
    slow = choose(replace(WORK, original=2e8), MACHINE, installed=True)
    assert 4 <= slow.epochs < 20 and slow.cycles == 1 and slow.threads == 1
    server = replace(MACHINE, resources=replace(MACHINE.resources, cores=64))
    large = choose(replace(WORK, original=8e9), server, installed=True)
    assert 4 <= large.epochs < 20 and large.threads == 64
    assert choose(replace(WORK, activations=40 * 10**6), MACHINE, installed=True).batch == 2


def test_multiply_adds() -> None:
    model = Model()
    x = model.node("Conv", model.input(1, 4, 8, 8), model.weight(6, 2, 3, 3), pads=[1] * 4, group=2)
    x = model.node("ConvTranspose", x, model.weight(6, 3, 2, 2), strides=[2, 2])
    model.output(model.node("MatMul", x, model.weight(16, 5)))
    assert multiply_adds(import_model(model.proto())) == 64 * 6 * 2 * 9 + 64 * 6 * 3 * 4 + 3 * 16 * 16 * 5


def test_both_optimizers_are_told_of() -> None:
    pytest.importorskip("torch")
    graph = correlated()
    channels, _ = pruned(graph)
    made = find_repairs(graph, find_groups(graph), channels, samples(graph, 60), this_machine())
    assert list(made.found) == [LEAST_SQUARES, ADAM]
    assert "Adam behind least squares, as 48 samples take" in made.reason and "fell from" in made.reason
    few = find_repairs(graph, find_groups(graph), channels, samples(graph, 10), this_machine())
    assert list(few.found) == [LEAST_SQUARES] and "8 samples are fewer" in few.reason


def test_what_cannot_be_differentiated_is_fitted_by_least_squares_alone() -> None:
    pytest.importorskip("torch")
    model = Model()
    x = model.node("Relu", model.node("Conv", model.input(1, 4, 8, 8), model.weight(8, 4, 3, 3)))
    x = model.node("Conv", x, model.weight(5, 8, 3, 3))
    model.output(model.node("CumSum", x, model.constant(1, "int64"), name="sums"))
    graph = import_model(model.proto())
    channels, _ = pruned(graph)
    made = find_repairs(graph, find_groups(graph), channels, samples(graph, 60), this_machine())
    assert list(made.found) == [LEAST_SQUARES]
    assert "least squares alone, as" in made.reason and "CumSum" in made.reason and "node_sums" in made.reason


def test_torch_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, lepton_compile, lepton_compile.pruning.planning, lepton_compile.passes.channel_pruning; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
