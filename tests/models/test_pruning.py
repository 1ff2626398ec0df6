"""Channels of pretrained models: what is found, and what is left when random ones are removed.

LEPTON_CHOICES says how many choices are tried of each model. Nets that were trained on digits keep what they know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import corpus
import numpy as np
import pytest
from corpus.digits import digits, worth
from corpus.models import trained_path
from corpus.multiplications import multiplications
from corpus.plain_pruning import total, uniform
from lepton_compile.passes.channel_pruning import ChannelPruning
from pruning.masking import masked

from lepton_compile.evaluation.compare import compare_outputs
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.evaluation.reference import reference_answers
from lepton_compile.model import Graph, import_model
from lepton_compile.planning.adapt import choose_passes
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.planning import Planner, Pruned
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import apply
from lepton_compile.rewriting import Stage
from lepton_compile.rewriting.limits import Limit, Resource
from lepton_compile.rewriting.manager import run_passes
from lepton_compile.rewriting.passes import Context
from lepton_compile.rewriting.patterns import producer
from lepton_compile.target import resolve_target
from lepton_compile.tuning import Workbench

pytestmark = pytest.mark.models

# What share of the weights can be removed, and the smallest sizes that tell as much.
PRUNABLE = {"open-nsfw": 0.8, "nudenet": 0.6, "ppocr-det": 0.6, "ppocr-rec": 0.6, "ppocr-cls": 0.6, "minilm": 0.4}
SMALL = {"nudenet": {"images": (1, 3, 96, 96)}, "ppocr-det": {"x": (1, 3, 96, 160)}, "ppocr-rec": {"x": (1, 3, 48, 96)}}
NETS = ("lenet", "resnet", "mobilenet", "densenet", "unet", "se_resnet", "mlp", "transformer", "gru")
CHOICES = int(os.environ.get("LEPTON_CHOICES", "4"))


def canonical(name: str) -> Graph:
    """A model as pruning sees it."""
    shapes = {**corpus.shapes(name), **SMALL.get(name, {})}
    return first_passes(import_model(corpus.model_path(name), shapes))


def first_passes(graph: Graph) -> Graph:
    """What the passes before pruning make of a graph."""
    first = [each for each in choose_passes(None) if each.stage is Stage.CANONICALISE]
    return run_passes(graph, first, resolve_target("x86-64-v3"))[0]


@pytest.mark.parametrize("name", PRUNABLE)
def test_random_choices(name: str) -> None:
    graph = canonical(name)
    structure = find_groups(graph)
    assert structure.share(graph) >= PRUNABLE[name]
    assert all(group.frozen for group in structure.groups if group not in structure.prunable)
    random = np.random.default_rng(0)
    feed = {tensor.name: random_input(random, tensor.shape, tensor.dtype) for tensor in graph.gs.inputs}
    for _ in range(CHOICES):
        channels: set[int] = set()
        for group in structure.prunable:
            if random.random() < 0.5:
                count = int(random.integers(0, len(group.channels)))
                channels |= set(random.choice(group.channels, count, replace=False).tolist())
        pruned = remove(graph.copy(), structure, channels)
        pruned.check()
        expected = masked(graph, structure, channels)
        mismatches = compare_outputs(*(reference_answers(before_softmax(each), feed) for each in (pruned, expected)))
        assert not mismatches, mismatches


def before_softmax(graph: Graph) -> Graph:
    """A graph that answers what its last softmax reads.

    Of random channels of a normalised stream logits are in the thousands, by which a softmax multiplies the rounding
    errors of both graphs.
    """
    made = [producer(tensor) for tensor in graph.gs.outputs]
    graph.gs.outputs = [
        node.inputs[0] if node is not None and node.op == "Softmax" else tensor
        for node, tensor in zip(made, graph.gs.outputs, strict=True)
    ]
    return graph


def random_input(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Patches of color, or tokens."""
    if dtype.kind == "f":
        patches = random.uniform(0, 1, (*shape[:2], *(-(-size // 16) for size in shape[2:])))
        return patches.repeat(16, axis=2).repeat(16, axis=3)[:, :, : shape[2], : shape[3]].astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def test_heads_and_inner_widths_of_a_transformer() -> None:
    graph = canonical("minilm")
    counts = sorted(len(group.channels) for group in find_groups(graph).prunable)
    assert counts == [12] * 6 + [1536] * 6


def pruned_to(most: float, graph: Graph, lanes: int, measure: Callable[[Graph], Mapping[str, float]]) -> Pruned:
    """A net that takes no more than this by a measure, pruned by digits without labels."""
    training, _ = digits()
    (x,) = graph.gs.inputs
    samples = [{x.name: image[None]} for image in training.images]
    context = Context(Contract(samples, *metric_of("top1"), 1.0), measure)
    limit = Limit(Resource.LATENCY, most, lambda each: total(measure(each).values()))
    pruned = Planner(graph, lanes, context, [limit]).within([limit.most])
    assert isinstance(pruned, Pruned)
    return pruned


@pytest.mark.parametrize("name", NETS)
def test_nets_at_half_the_multiplications(name: str) -> None:
    """Within a point of the original on digits that nothing else saw, without labels, and better than plain pruning."""
    graph = first_passes(import_model(trained_path(name)))
    whole = total(multiplications(graph).values())
    pruned = pruned_to(0.5 * whole, graph, 4, multiplications)
    plain = ChannelPruning(pruned.removed).run(graph.copy(), Context())
    repaired = apply(pruned.repair, plain.copy())
    assert total(multiplications(repaired).values()) <= 0.5 * whole
    found = worth_of(name, repaired)
    assert found >= worth_of(name, graph) - 0.01
    assert found > max(worth_of(name, each) for each in (plain, uniform(graph, 0.5 * whole)))


def test_narrow_layers_at_half_the_latency() -> None:
    """LeNet-5's 6 and 16 channels take a vector of 16 each, however many are left: what reads them saves time."""
    graph = first_passes(import_model(trained_path("lenet")))
    target = resolve_target("x86-64-v4")
    bench = Workbench(target, "lenet", passes=None, tuning=None, exact_order=False, progress=lambda line: None)
    most = total(bench.seconds(graph).values()) / 1.9
    pruned = pruned_to(most, graph, target.vector_bytes // 4, bench.seconds)
    repaired = apply(pruned.repair, ChannelPruning(pruned.removed).run(graph.copy(), Context()))
    assert worth_of("lenet", repaired) >= worth_of("lenet", graph) - 0.01


@pytest.mark.parametrize("name", NETS)
def test_nets_are_as_wide_as_their_groups(name: str) -> None:
    """So that a net can be built as wide as pruning left it."""
    digit_nets = pytest.importorskip("corpus.digit_nets", reason="nets are built with PyTorch")
    widths = digit_nets.Widths()
    digit_nets.NETS[name](widths)
    groups = find_groups(first_passes(import_model(trained_path(name)))).prunable
    assert widths.published == [len(group.channels) for group in groups]


def worth_of(name: str, graph: Graph) -> float:
    session = graph.session()
    (x,), (y,) = graph.gs.inputs, graph.gs.outputs
    return worth(name, lambda image: session.run({x.name: image})[y.name])
