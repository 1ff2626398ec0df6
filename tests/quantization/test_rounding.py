"""Weights rounded together: never worse than to the nearest integers, from moments that are those of the outputs."""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering.conftest import Model, onnxruntimes

import lepton_compile as lc
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.covariances import LARGEST_INNER, as_stored, by_inputs
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.quantization.calibration import calibrate
from lepton_compile.quantization.layers import find_groups, find_layers
from lepton_compile.quantization.moments import Reading, second_moments
from lepton_compile.quantization.recipe import INT8, Recipe, follow
from lepton_compile.quantization.rounding import costs, followed, rounded_together, told
from lepton_compile.rewriting import Context
from lepton_compile.target import resolve_target

Feed = Mapping[str, np.ndarray]


def problem(seed: int, groups: int, inner: int, outputs: int, largest: int) -> tuple[np.ndarray, ...]:
    """Weights, steps, the nearest integers, and moments of inputs that go together, some of them dead."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((groups, inner, outputs)).astype(np.float32)
    steps = np.exp(random.uniform(-5, 0, (groups, inner, outputs))).astype(np.float32)
    rows = random.standard_normal((groups, 3 * inner, inner)) @ random.standard_normal((groups, inner, inner)) + 1
    rows *= random.integers(0, 2, inner) if seed % 3 == 0 else 1
    moments = (rows.swapaxes(1, 2) @ rows / (3 * inner)).astype(np.float32)
    return weights, steps, np.clip(np.rint(weights / steps), -largest, largest).astype(np.int8), moments


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 20), groups=st.integers(1, 3), inner=st.integers(1, 150), outputs=st.integers(1, 9),
    largest=st.sampled_from([7, 127]),
)  # fmt: skip
def test_no_output_is_worse(seed: int, groups: int, inner: int, outputs: int, largest: int) -> None:
    weights, steps, nearest, moments = problem(seed, groups, inner, outputs, largest)
    given_weights = weights.copy()
    found = rounded_together(weights, steps, nearest, largest, moments)
    assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= largest
    assert (weights == given_weights).all()
    assert (costs(weights - found * steps, moments) <= costs(weights - nearest * steps, moments)).all()
    assert (rounded_together(weights, steps, nearest, largest, moments) == found).all()
    assert (followed(nearest, told(found, nearest)) == found).all()


def test_inputs_that_go_together_make_up_for_each_other() -> None:
    """Of two equal inputs, one takes what the other lost: nothing is lost but the rest of the last rounding."""
    moments = np.full((1, 2, 2), 1.0, np.float32)
    weights, ones = np.full((1, 2, 1), 0.4, np.float32), np.ones((1, 2, 1), np.float32)
    nearest = np.zeros((1, 2, 1), np.int8)
    found = rounded_together(weights, ones, nearest, 127, moments)
    assert sorted(found.ravel()) == [0, 1]


def test_it_is_near_the_best_there_is() -> None:
    """Of all roundings up and down, in eight examples, it closes most of the gap between the nearest and the best."""
    gap = closed = 0.0
    for seed in range(8):
        weights, steps, nearest, moments = problem(seed * 3 + 1, 1, 8, 1, 127)
        moments /= np.trace(moments[0])
        steps[:] = 0.5
        nearest = np.rint(weights / steps).astype(np.int8)
        found = rounded_together(weights, steps, nearest, 127, moments)
        base = np.floor(weights / steps)
        tried = (base + np.reshape(up, (1, 8, 1)) for up in itertools.product((0, 1), repeat=8))
        best = min(float(costs(weights - each * steps, moments)[0, 0]) for each in tried)
        lost = [float(costs(weights - each * steps, moments)[0, 0]) for each in (nearest, found)]
        gap, closed = gap + lost[0] - best, closed + lost[0] - lost[1]
    assert closed > 0.7 * gap > 0


def test_inputs_that_do_not_go_together_are_rounded_to_the_nearest() -> None:
    weights, steps, nearest, _ = problem(1, 2, 70, 5, 127)
    moments = np.stack([np.diag(np.random.default_rng(0).uniform(0, 9, 70))] * 2).astype(np.float32)
    assert (rounded_together(weights, steps, nearest, 127, moments) == nearest).all()


@pytest.mark.parametrize(
    "text", ["", "?", base64.b64encode(b"x").decode(), base64.b64encode(zlib.compress(bytes(5))).decode()]
)
def test_a_text_that_is_no_rounding_of_these_weights(text: str) -> None:
    with pytest.raises(ValueError, match="rounding"):
        followed(np.zeros((2, 3), np.int8), text)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99), groups=st.integers(1, 4), channels=st.integers(1, 3), outputs=st.integers(1, 3),
    taps=st.lists(st.integers(1, 3), min_size=1, max_size=2), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    pads=st.integers(0, 2), automatic=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)  # fmt: skip
def test_moments_tell_the_mean_square_of_a_convolution(
    seed: int, groups: int, channels: int, outputs: int, taps: list[int], stride: int, dilation: int, pads: int,
    automatic: str,
) -> None:  # fmt: skip
    """w'Hw is the mean square of the output, as onnxruntime computes it."""
    random = np.random.default_rng(seed)
    rank = len(taps)
    model = Model()
    x = model.input(2, groups * channels, *random.integers(7, 12, rank))
    weights = random.standard_normal((groups * outputs, channels, *taps)).astype(np.float32)
    dilated = dilation if automatic == "NOTSET" else 1  # onnxruntime takes no others with automatic padding
    padding = {"pads": list(random.integers(0, pads + 1, 2 * rank))} if automatic == "NOTSET" else {}
    y = model.node(
        "Conv", x, model.constant(weights), group=groups, strides=[stride] * rank, dilations=[dilated] * rank,
        auto_pad=automatic, **padding,
    )  # fmt: skip
    model.output(y)
    wanted = onnxruntimes(model.proto(), model.inputs)[y]
    assert_moments(model, weights, np.moveaxis(wanted, 1, -1).reshape(-1, groups * outputs))


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm transposed"])
def test_moments_tell_the_mean_square_of_a_product(op: str) -> None:
    model = Model()
    x = model.input(*(2, 3, 5, 12)[0 if op == "MatMul" else 2 :])
    weights = np.random.default_rng(0).standard_normal((12, 7)).astype(np.float32)
    if op == "Gemm transposed":
        weights = weights.T
    y = model.node(op.split()[0], x, model.constant(weights), **({"transB": 1} if "transposed" in op else {}))
    model.output(y)
    assert_moments(model, weights, onnxruntimes(model.proto(), model.inputs)[y].reshape(-1, 7))


def assert_moments(model: Model, weights: np.ndarray, wanted: np.ndarray) -> None:
    graph = import_model(model.proto())
    ((layer, moments),) = second_moments(graph, [Reading(find_layers(graph)[0][0], lambda x: x)], [model.inputs])
    (node,) = (node for node in graph.gs.nodes if node.name == layer.node)
    by_outputs = by_inputs(node, weights)
    np.testing.assert_allclose(costs(by_outputs, moments).ravel(), (wanted**2).mean(axis=0), rtol=1e-3, atol=1e-5)
    assert (as_stored(node, by_outputs, weights.shape) == weights).all()


def mixing(inner: int = 96) -> Model:
    """A convolution, a depthwise one and products, of inputs that go together, and are not even."""
    random = np.random.default_rng(0)
    model = Model()
    mixture = random.standard_normal((8, inner)) * np.exp(random.uniform(-1, 1, inner))
    x = model.input(4, 8, 6, 6)
    spread = model.node("Conv", x, model.constant(mixture.T.reshape(inner, 8, 1, 1)), name="spread")
    deep = model.node("Conv", spread, model.weight(inner, 1, 3, 3), group=inner, pads=[1] * 4, name="deep")
    grouped = model.node("Conv", deep, model.weight(16, inner // 2, 1, 1), group=2, name="grouped")
    flat = model.node("Flatten", grouped)
    model.output(model.node("Gemm", flat, model.weight(20, 16 * 36), transB=1, name="gemm"))
    few_large = random.standard_normal((inner, 24)) ** 5  # so that rounding the others is what costs
    turned = model.node("Transpose", spread, perm=[0, 2, 3, 1])
    model.output(model.node("MatMul", turned, model.constant(few_large), name="matmul"))
    return model


def feeds(model: Model, count: int = 36) -> list[Feed]:
    random = np.random.default_rng(1)
    return [
        {name: random.standard_normal(x.shape, np.float32) for name, x in model.inputs.items()} for _ in range(count)
    ]


def contract(model: Model, samples: list[Feed]) -> Contract:
    return Contract(samples, *metric_of("relative_error"), 0.5)


def error_of(graph: lc.model.Graph, original: lc.model.Graph, samples: list[Feed], output: str) -> float:
    session, exact = graph.session(), original.session()
    lost = [session.run(each)[output] - exact.run(each)[output] for each in samples]
    return float(np.sqrt(sum((each**2).sum() for each in lost)))


def test_bytes_are_rounded_together_where_it_pays() -> None:
    model = mixing()
    graph = import_model(model.proto())
    samples, others = feeds(model, 60)[:36], feeds(model, 60)[36:]
    groups = find_groups(graph, find_layers(graph)[0])
    made = calibrate(graph, groups, contract(model, samples))
    assert made == calibrate(graph, groups, contract(model, samples))
    assert "node_matmul" in made.recipe.rounding
    recipe = made.restricted({"node_matmul": INT8}, groups)
    assert list(recipe.rounding) == ["node_matmul"]
    nearest = Recipe(recipe.precisions, recipe.scales, recipe.smoothing, recipe.corrections)
    lost = [error_of(follow(each, graph.copy()), graph, others, "matmul") for each in (recipe, nearest)]
    assert 0 < lost[0] < 0.97 * lost[1]


def test_a_plan_replays_it_without_samples() -> None:
    model = mixing()
    graph = import_model(model.proto())
    target = resolve_target("x86-64-v4-vnni")
    made, plan = adapt(graph, target, context=Context(contract(model, feeds(model))))
    (step,) = (step for step in plan.steps if step.name == "quantization")
    assert step.settings["rounding"]
    replayed, _ = adapt(graph, target, plan=lc.Plan.from_json(plan.to_json()))
    assert replayed.to_model().SerializeToString() == made.to_model().SerializeToString()


def test_layers_of_very_many_inputs_are_left_out() -> None:
    model = Model()
    x = model.input(1, LARGEST_INNER + 1)
    model.output(model.node("MatMul", x, model.weight(LARGEST_INNER + 1, 4)))
    graph = import_model(model.proto())
    readings = [Reading(layer, lambda x: x) for layer in find_layers(graph)[0]]
    assert len(readings) == 1 and not list(second_moments(graph, readings, [model.inputs]))


def test_few_samples_that_all_judge_leave_none_to_fit_to() -> None:
    model = mixing()
    graph = import_model(model.proto())
    groups = find_groups(graph, find_layers(graph)[0])
    assert not calibrate(graph, groups, contract(model, feeds(model, 6))).recipe.rounding
