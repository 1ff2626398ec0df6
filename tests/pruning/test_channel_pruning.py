"""Budgets for latency: channels go under a contract until the cost model says that a run is fast enough."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from lepton_compile.passes.channel_pruning import ChannelPruning
from lowering.conftest import Model

import lepton_compile as lc
from lepton_compile.evaluation.contract import Contract, Judgement
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import Graph, import_model
from lepton_compile.planning import Plan, adapt
from lepton_compile.pruning.planning import best_repair
from lepton_compile.rewriting import Context, Proposal, Stage
from lepton_compile.target import Budget, Target, resolve_target, with_budget
from lepton_compile.tuning import Workbench

TARGET = "x86-64-v3"


def net(width: int = 64) -> onnx.ModelProto:
    """Convolutions with more channels than what they read has directions, so that some tell what others do."""
    random = np.random.default_rng(0)
    model = Model()
    x = model.input(1, 3, 16, 16)
    before = 3
    for number in range(3):
        weights = random.standard_normal((width, before, 3, 3)) / np.sqrt(9 * before)
        made = model.node("Conv", x, model.constant(weights), model.weight(width), pads=[1] * 4)
        x = model.node("Relu", made) if number != 1 else model.node("Add", model.node("Relu", made), x)
        before = width
    model.output(model.node("Gemm", model.node("Flatten", model.node("GlobalAveragePool", x)), model.weight(width, 10)))
    return model.proto()


def samples(count: int = 60) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    smooth = random.standard_normal((count, 1, 3, 4, 4)).repeat(4, axis=-1).repeat(4, axis=-2)
    return [{"x0": each.astype(np.float32)} for each in smooth]


def contract(drop: float) -> Contract:
    return Contract(samples(), *metric_of("relative_error"), drop)


def bench(target: Target) -> Workbench:
    return Workbench(target, "net", passes=None, tuning="model", exact_order=False, progress=lambda line: None)


def asked(share: float) -> tuple[Target, float]:
    """A target with a budget of this share of what the whole net takes."""
    target = resolve_target(TARGET)
    whole = math.fsum(bench(target).seconds(import_model(net())).values())
    return with_budget(target, Budget(latency_s=share * whole)), whole


def test_a_run_becomes_fast_enough() -> None:
    target, whole = asked(0.6)
    seconds = bench(target).seconds
    graph = import_model(net())
    made, plan = adapt(graph, target, context=Context(contract(0.5), seconds))
    (step,) = (step for step in plan.steps if step.name == "channel_pruning")
    assert math.fsum(seconds(made).values()) <= 0.6 * whole
    metric = step.findings["metric"]
    assert isinstance(metric, dict)
    assert metric["original"] - metric["pruned"] < 0.5 * (metric["original"] - metric["pruned and not repaired"])
    groups = step.findings["groups"]
    assert isinstance(groups, list) and all(each["left"] % 8 == 0 for each in groups)
    # What a plan says is what was done, without any sample.
    again, _ = adapt(graph, target, plan=Plan.from_json(plan.to_json()))
    for feed in samples(3):
        (one,), (other,) = (each.run(feed).values() for each in (made, again))
        assert (one == other).all()


def test_what_is_compiled_answers_as_the_pruned_graph() -> None:
    target, _ = asked(0.6)
    made = lc.compile(
        net(), target, calibration=samples(), metric="relative_error", budget=Budget(max_drop=0.5), tuning="model"
    )
    assert any(step["pass"] == "channel_pruning" for step in made.plan["steps"])
    graph, _ = adapt(import_model(net()), target, plan=Plan.from_json(json.dumps(made.plan)))
    feed = samples(1)[0]
    ((_, expected),) = graph.run(feed).items()
    ((_, answer),) = made.run(feed).items()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("share", "drop", "why"), [(0.001, 1e9, "as few channels"), (0.3, 1e-6, "contract would not")])
def test_what_cannot_be_met_says_how_near_it_came(share: float, drop: float, why: str) -> None:
    target, _ = asked(share)
    budget = Budget(max_drop=drop)
    with pytest.raises(lc.BudgetError, match=f"a run takes .*s, and the budget for latency is .*{why}"):
        lc.compile(net(), target, calibration=samples(), metric="relative_error", budget=budget, tuning="model")


def test_nothing_to_remove() -> None:
    model = Model()
    model.output(model.node("Softmax", model.node("MatMul", model.input(64, 64), model.weight(64, 64))))
    with pytest.raises(lc.BudgetError, match="no channels can be removed"):
        lc.compile(
            model.proto(),
            TARGET,
            calibration=[{"x0": np.eye(64, dtype=np.float32) * scale} for scale in (1, 2, 3)],
            budget=Budget(latency_s=1e-9),
        )


def test_channels_stay_where_later_passes_save_more_than_was_expected() -> None:
    """What is expected of later passes is what they save of the whole graph."""
    target, whole = asked(0.6)
    seconds = bench(target).seconds
    graph = import_model(net())

    def measure(of: Graph) -> dict[str, float]:
        return {step: (0.6 if of.name == "later" else 1.0) * taken for step, taken in seconds(of).items()}

    def outlook(of: Graph, stage: Stage) -> Graph:
        if math.fsum(seconds(of).values()) < whole:
            of = of.copy()
            of.gs.name = "later"
        return of

    context = Context(contract(0.5), measure, outlook=outlook)
    proposal = ChannelPruning().propose(graph, target, context)
    assert isinstance(proposal, Proposal)
    made = proposal.rewrite.run(graph.copy(), context)
    assert 0.9 * 0.6 * whole < 0.6 * math.fsum(seconds(made).values()) <= 0.6 * whole


@pytest.mark.parametrize(
    ("values", "most", "best"),
    [
        ((0.5, 0.9, 0.89), 1.0, "adam"),  # the metric cannot tell it from least squares
        ((0.5, 0.9, 0.7), 1.0, "least squares"),
        ((0.5, 0.99, 0.98), 0.025, "least squares"),  # the only one that holds the contract
        ((0.99, 0.2, 0.3), 1.0, "no repair"),
    ],
)
def test_which_repair_is_taken(values: tuple[float, ...], most: float, best: str) -> None:
    names = ("no repair", "least squares", "adam")
    judged = {name: Judgement(1.0, value, 0.012, 50) for name, value in zip(names, values, strict=True)}
    assert best_repair(judged, most) == best


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_a_recurrent_layer_of_which_the_last_state_is_read(op: str) -> None:
    gates = {"GRU": 3, "LSTM": 4}[op]
    model = Model()
    embedded = model.node("MatMul", model.input(12, 1, 16), model.weight(16, 48))
    weights = model.weight(1, gates * 64, 48), model.weight(1, gates * 64, 64)
    _, state = model.node(op, embedded, *weights, outputs=2, hidden_size=64)
    last = model.node("MatMul", model.node("Reshape", state, model.constant([1, 64], "int64")), model.weight(64, 8))
    model.output(last)
    proto = model.proto()
    (layer,) = (node for node in proto.graph.node if node.op_type == op)
    layer.output[0] = ""
    random = np.random.default_rng(0)
    data = [{"x0": random.standard_normal((12, 1, 16), dtype=np.float32)} for _ in range(16)]
    target = resolve_target(TARGET)
    before = math.fsum(bench(target).seconds(import_model(proto)).values())
    compiled = lc.compile(
        proto, TARGET, calibration=data, budget=Budget(latency_s=0.5 * before, max_drop=1.0), tuning="model"
    )
    (step,) = (step for step in compiled.manifest["passes"] if step["pass"] == "channel_pruning")
    assert "channels of 2 groups go" in step["reason"]
    # Both products take time, so that neither what is read nor the state goes as far as it can.
    assert all(group["left"] > 8 for group in step["findings"]["groups"])


def test_layers_of_other_types_keep_their_weights() -> None:
    model = Model()
    x = model.node("Cast", model.input(1, 3, 12, 12), to=onnx.TensorProto.FLOAT16)
    inner = model.node("Conv", x, model.weight(64, 3, 3, 3, dtype="float16"), model.weight(64, dtype="float16"))
    y = model.node("Conv", model.node("Relu", inner), model.weight(4, 64, 3, 3, dtype="float16"))
    model.output(model.node("Cast", y, to=onnx.TensorProto.FLOAT))
    graph = import_model(model.proto())
    target = resolve_target(TARGET)
    before = math.fsum(bench(target).seconds(graph).values())
    data = [{"x0": each["x0"][:, :, :12, :12]} for each in samples(16)]
    compiled = lc.compile(
        model.proto(), TARGET, calibration=data, budget=Budget(latency_s=0.6 * before, max_drop=1.0), tuning="model"
    )
    assert [step["pass"] for step in compiled.manifest["passes"] if not step["exact"]] == ["channel_pruning"]


def test_bytes_are_saved_by_fewer_channels_of_fewer_bits_together() -> None:
    """Where neither a budget for size can be kept by weights of few bits alone, nor should channels do it all."""
    data = samples()
    least = bench(with_budget(resolve_target(TARGET), Budget(size_bytes=1))).size(import_model(net()))
    weights = sum(each.nbytes for each in map(onnx.numpy_helper.to_array, net().graph.initializer))
    budget = Budget(size_bytes=int(least - 0.92 * weights), max_drop=1.0)
    compiled = lc.compile(net(), TARGET, calibration=data, budget=budget, tuning="model")
    taken = [step["pass"] for step in compiled.manifest["passes"] if not step["exact"]]
    assert taken == ["channel_pruning", "quantization"]
    assert compiled.manifest["library"]["bytes"] <= budget.size_bytes


def test_an_operator_that_is_not_there_is_the_fault_of_the_model() -> None:
    model = Model()
    values, _ = model.node("TopK", model.input(1, 32), model.constant([4], "int64"), outputs=2)
    model.output(model.node("MatMul", values, model.weight(4, 3)))
    with pytest.raises(lc.UnsupportedOperatorError, match="TopK"):
        lc.compile(model.proto(), TARGET, budget=Budget(latency_s=1e-6), tuning="model")


@pytest.mark.parametrize("left", [0, -1, 2, "a"])
def test_a_share_that_is_none_is_refused(left: object) -> None:
    with pytest.raises(lc.LeptonError, match="left is a share of a run's time"):
        lc.compile(net(), TARGET, passes=[f"channel_pruning{{left={json.dumps(left)}}}"], tuning="model")
