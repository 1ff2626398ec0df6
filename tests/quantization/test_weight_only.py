"""Weights made integers under operators that stay in float32: what onnxruntime says of it, and what is compiled."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.conftest import Model, difference, onnxruntimes

import lepton_compile as lc
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.quantization.weight_only import candidates, make_weight_only
from lepton_compile.target import Budget, resolve_target


@pytest.fixture
def model() -> Model:
    """One of each operator, with weights whose outputs differ in size."""
    made = Model()
    random = np.random.default_rng(0)

    def weights(*shape: int, axis: int = -1) -> str:
        sizes = np.exp(random.uniform(-3, 3, shape[axis]))
        return made.constant(
            random.standard_normal(shape)
            * sizes.reshape([-1 if size == axis % len(shape) else 1 for size in range(len(shape))])
        )

    x = made.input(3, 100)
    made.output(made.node("MatMul", x, weights(100, 40), name="matmul"))
    made.output(made.node("Gemm", x, weights(30, 100, axis=0), transB=1, name="gemm"))
    rows = made.given(np.array([[0, 4], [99, -1]]))
    made.output(made.node("Gather", weights(100, 64, axis=0), rows, name="gather"))
    image = made.input(1, 8, 12, 12)
    made.output(made.node("Conv", image, weights(20, 8, 3, 3, axis=0), name="conv"))
    made.output(made.node("ConvTranspose", image, weights(8, 20, 3, 3, axis=1), strides=[2, 2], name="transposed"))
    for cell, gates in (("LSTM", 4), ("GRU", 3)):
        sizes = (2, gates * 24, 24)
        layer = made.node(
            cell, made.input(5, 2, 24), weights(*sizes, axis=1), made.constant(random.standard_normal(sizes) / 5),
            outputs=1, hidden_size=24, direction="bidirectional", name=cell.lower(),
        )  # fmt: skip
        made.output(layer)
    made.output(made.node("Conv", image, weights(8, 1, 3, 3, axis=0), group=8, name="depthwise"))
    return made


def test_candidates(model: Model) -> None:
    found = {each.node: each for each in candidates(import_model(model.proto()))}
    assert {name: each.bits for name, each in found.items()} == {
        "node_matmul": (16, 8, 4), "node_gemm": (16, 8, 4), "node_gather": (16, 8), "node_conv": (16, 8),
        "node_depthwise": (16, 8), "node_transposed": (16, 8), "node_lstm": (16, 8), "node_gru": (16, 8),
    }  # fmt: skip
    assert found["node_lstm"].numbers == 2 * 2 * 96 * 24


@pytest.mark.parametrize(("bits", "most"), [(16, 1e-4), (8, 0.02), (4, 0.15)])
def test_answers(model: Model, bits: int, most: float) -> None:
    """They are near, those of onnxruntime on the new graph are the compiled library's, and weights are small."""
    graph = import_model(model.proto())
    taken = {each.node: bits for each in candidates(graph) if bits in each.bits}
    make_weight_only(graph, taken)
    proto = graph.to_model()
    wanted, original = onnxruntimes(proto, model.inputs), onnxruntimes(model.proto(), model.inputs)
    for name, value in original.items():
        error = np.linalg.norm(wanted[name] - value) / np.linalg.norm(value)
        changed = f"node_{name}" in taken
        assert (0 < error < most) if changed else error < 1e-6
    got = lc.compile(proto, tuning="model").run(model.inputs)
    assert not any(difference(got[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(("bits", "most"), [(16, 0.62), (8, 0.35)])
def test_a_budget_makes_all_weights_small(model: Model, bits: int, most: float) -> None:
    """Where it asks for less than what is fastest takes, weights are short everywhere, and scales."""
    graph = import_model(model.proto())
    make_weight_only(graph, {each.node: bits for each in candidates(graph)})
    proto = graph.to_model()
    fast = lc.compile(proto, tuning="model")
    small = lc.compile(proto, tuning="model", budget=Budget(size_bytes=fast.manifest["library"]["bytes"] - 1))
    wanted, got = onnxruntimes(proto, model.inputs), small.run(model.inputs)
    assert not any(difference(got[name], value) for name, value in wanted.items())
    numbers = sum(each.numbers for each in candidates(import_model(model.proto())))
    assert small.manifest["memory"]["weights_bytes"] < most * 4 * numbers
    assert fast.manifest["memory"]["weights_bytes"] > 0.5 * 4 * numbers


def test_passes_leave_the_integers(model: Model) -> None:
    graph = import_model(model.proto())
    make_weight_only(graph, {each.node: 8 for each in candidates(graph)})
    adapted, _ = adapt(graph, resolve_target("x86-64-v3"), verify=True)
    bodies = [adapted.gs, *adapted.gs.functions]
    assert sum(node.op == "DequantizeLinear" for body in bodies for node in body.nodes) == 10


@pytest.mark.parametrize(("name", "bits"), [("node_conv", 4), ("node_matmul", 3), ("nothing", 8)])
def test_what_cannot_be(model: Model, name: str, bits: int) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be in {bits} bits"):
        make_weight_only(import_model(model.proto()), {name: bits})
