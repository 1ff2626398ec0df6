from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

import lepton_compile as lc
from lepton_compile.errors import CalibrationError
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.rewriting import Context
from lepton_compile.target import resolve_target, with_budget
from lepton_compile.target.target import PROCESS_BYTES
from lepton_compile.tuning import Workbench

TARGET = "x86-64-v4-vnni"


def net(outlier: float = 1.0) -> onnx.ModelProto:
    """Convolutions with a residual and a concatenation; `outlier` scales one channel of one layer up, and the weights
    that read it down."""
    random = np.random.default_rng(0)

    def weights(*shape):
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    tensors = {"x": gs.Variable("x", np.dtype(np.float32), (1, 3, 16, 16))}
    nodes = []

    def add(op, name, inputs, constants=(), **attrs):
        tensors[name] = gs.Variable(name, np.dtype(np.float32))
        known = [gs.Constant(f"{name}_{place}", value) for place, value in enumerate(constants)]
        nodes.append(gs.Node(op, name, attrs, [*(tensors[each] for each in inputs), *known], [tensors[name]]))

    first, second = weights(32, 3, 3, 3), weights(32, 32, 1, 1)
    first[5] *= outlier
    second[:, 5] /= outlier
    add("Conv", "first", ["x"], [first, weights(32, 1)[:, 0]], pads=[1, 1, 1, 1])
    add("Relu", "a", ["first"])
    add("Conv", "second", ["a"], [second])
    add("Relu", "b", ["second"])
    add("Conv", "third", ["b"], [weights(32, 32, 3, 3)], pads=[1, 1, 1, 1])
    add("Add", "sum", ["third", "b"])
    add("Relu", "c", ["sum"])
    add("Concat", "both", ["b", "c"], axis=1)
    add("MaxPool", "pooled", ["both"], kernel_shape=[2, 2], strides=[2, 2])
    add("Conv", "fourth", ["pooled"], [weights(32, 64, 1, 1)])
    add("GlobalAveragePool", "mean", ["fourth"])
    add("Flatten", "flat", ["mean"])
    add("Gemm", "y", ["flat"], [weights(10, 32), weights(10, 1)[:, 0]], transB=1)
    graph = gs.Graph(nodes, [tensors["x"]], [tensors["y"]], opset=17)
    return onnx.shape_inference.infer_shapes(gs.export_onnx(graph))


def samples(count=24):
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def adapted(model, metric="relative_error", drop=0.1, data=None):
    graph = import_model(model)
    contract = Contract(samples() if data is None else data, *metric_of(metric), drop)
    made, plan = adapt(graph, resolve_target(TARGET), context=Context(contract))
    return graph, made, plan


def step_of(plan):
    return next((step for step in plan.steps if step.name == "quantization"), None)


def error(one, other):
    difference = [np.linalg.norm(one.run(each)["y"] - other.run(each)["y"]) for each in samples()]
    return sum(difference) / sum(np.linalg.norm(other.run(each)["y"]) for each in samples())


def test_layers_are_quantized_and_the_contract_holds():
    original, made, plan = adapted(net())
    step = step_of(plan)
    assert len(step.settings["layers"]) == 5 and not step.exact
    assert 0 < error(made, original) < 0.1
    metric = step.findings["metric"]
    assert metric["original"] == 1.0 and metric["quantized"] > 0.9 and metric["samples held out"] == 8


def test_the_same_samples_give_the_same_plan_and_a_replay_needs_none():
    graph, made, plan = adapted(net())
    assert adapted(net())[2].to_json() == plan.to_json()
    replayed, _ = adapt(graph, resolve_target(TARGET), plan=lc.Plan.from_json(plan.to_json()))
    assert replayed.to_model().SerializeToString() == made.to_model().SerializeToString()


def test_no_sample_is_in_the_plan():
    marked = samples()
    for each in marked:
        each["x"][0, 0, 0, 0] = 1.2345678
    assert "1.2345" not in adapted(net(), data=marked)[2].to_json()


def test_without_samples_nothing_is_lost_and_the_plan_says_what_could_be_gained():
    graph = import_model(net())
    made, plan = adapt(graph, resolve_target(TARGET))
    assert step_of(plan) is None
    answer = next(each for each in plan.declined if each.name == "quantization")
    assert "give calibration data" in answer.reason and "5 layers" in answer.reason
    assert error(made, graph) < 1e-5


def test_a_contract_that_nothing_holds_gives_the_exact_model_and_the_reason():
    original, made, plan = adapted(net(), drop=0.0)
    assert step_of(plan) is None and error(made, original) < 1e-5
    answer = next(each for each in plan.declined if each.name == "quantization")
    assert answer.reason == "no layer holds the contract"
    assert any("would drop too far" in each for each in answer.refusals)


def test_a_channel_of_outliers_is_found_and_treated():
    original, made, plan = adapted(net(outlier=300.0))
    step = step_of(plan)
    assert len(step.settings["layers"]) == 5
    assert [name for name, _ in step.settings["smoothing"]] == ["a"]
    assert error(made, original) < 0.1


def test_a_layer_that_cannot_be_quantized_is_named():
    def strict(answers, expected):
        return [-float(np.abs(a["y"] - e["y"]).max()) for a, e in zip(answers, expected, strict=True)]

    _, _, plan = adapted(net(), strict, drop=0.006)
    step = step_of(plan)
    assert step is not None and 0 < len(step.settings["layers"]) < 5
    left = [each for each in step.refusals if "would drop too far" in each]
    assert len(left) == 5 - len(step.settings["layers"])
    ranked = step.findings["layers"]
    assert [each["drop of the metric alone"]["int8"] for each in ranked] == sorted(
        (each["drop of the metric alone"]["int8"] for each in ranked), reverse=True
    )


def raising(answers, expected):
    raise KeyError("z")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (raising, "raised KeyError"),
        (lambda answers, expected: float("nan"), "a finite number"),
        (lambda answers, expected: [1.0, 2.0, 3.0], "3 numbers for 8 samples"),
        (lambda answers, expected: "good", "raised ValueError"),
        ("accuracy", "there is no metric 'accuracy'"),
        ({"q": "cosine"}, "the metric names 'q'"),
    ],
)
def test_a_metric_that_cannot_be_used_says_why(metric, message):
    with pytest.raises(CalibrationError, match=message):
        adapted(net(), metric)


def test_two_samples_are_enough():
    _, _, plan = adapted(net(), data=samples(2))
    assert step_of(plan).findings["metric"]["samples held out"] == 1


def test_a_library_of_integers_gives_the_answers_of_the_graph():
    if not resolve_target("host").has_dot_products:
        pytest.skip("this machine has no instruction for products of bytes")
    compiled = lc.compile(
        net(), calibration=samples(), metric="relative_error", budget=lc.Budget(max_drop=0.1), tuning="model"
    )
    step = next(step for step in compiled.manifest["passes"] if step["pass"] == "quantization")
    made, _ = adapt(
        import_model(net()), resolve_target("host"), plan=lc.Plan.from_json((compiled.folder / "plan.json").read_text())
    )
    for each in samples(4):
        assert np.allclose(compiled.run(each)["y"], made.run(each)["y"], rtol=1e-3, atol=1e-4)
    assert step["settings"]["layers"]


def test_the_same_tuning_file_gives_the_same_bytes(tmp_path):
    if not resolve_target("host").has_dot_products:
        pytest.skip("this machine has no instruction for products of bytes")

    def compiled(tuning):
        return lc.compile(net(), name="net", calibration=samples, metric="relative_error", tuning=tuning)

    first = compiled("measure")
    (tmp_path / "tuning.json").write_bytes((first.folder / "tuning.json").read_bytes())
    again = [compiled(tmp_path / "tuning.json") for _ in range(2)]
    for file in ("libnet.so", "plan.json", "tuning.json"):
        contents = {(each.folder / file).read_bytes() for each in (first, *again)}
        assert len(contents) == 1, file


def wide(inner=512):
    """Two products whose weights outweigh the code, the second half as large as the first."""
    random = np.random.default_rng(0)
    tensors = [
        gs.Variable("x", np.dtype(np.float32), (4, inner)),
        *(gs.Variable(name, np.dtype(np.float32)) for name in "hry"),
    ]
    x, h, r, y = tensors
    weights = [
        (random.standard_normal(shape) / 20).astype(np.float32) for shape in ((inner, inner), (inner, inner // 2))
    ]
    nodes = [
        gs.Node("MatMul", "first", {}, [x, gs.Constant("w", weights[0])], [h]),
        gs.Node("Relu", "relu", {}, [h], [r]),
        gs.Node("MatMul", "second", {}, [r, gs.Constant("v", weights[1])], [y]),
    ]
    return onnx.shape_inference.infer_shapes(gs.export_onnx(gs.Graph(nodes, [x], [y], opset=17)))


def wide_samples(inner=512):
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((4, inner)).astype(np.float32)} for _ in range(9)]


FLOATS = 512 * 768 * 4


@pytest.mark.parametrize(
    ("target", "share", "precisions"),
    [
        # Code takes a share too; with 16 bits in both layers the weights are half as large.
        ("x86-64-v3", 0.8, {"first": "int16 weights"}),
        ("x86-64-v3", 0.6, {"first": "int16 weights", "second": "int16 weights"}),
        ("x86-64-v3", 0.5, {"first": "int8 weights", "second": "int16 weights"}),
        ("x86-64-v3", 0.35, {"first": "int8 weights", "second": "int16 weights"}),
        ("x86-64-v3", 0.3, {"first": "int8 weights", "second": "int8 weights"}),
        ("x86-64-v3", 0.24, {"first": "int4 weights", "second": "int8 weights"}),
        ("x86-64-v4-vnni", 0.35, {"first": "int8", "second": "int8"}),
        ("x86-64-v4-vnni", 0.24, {"first": "int4 weights", "second": "int8"}),
    ],
)
def test_a_budget_for_size_is_kept_in_as_few_layers_as_it_takes(target, share, precisions):
    budget = lc.Budget(size_bytes=int(share * FLOATS), max_drop=0.1)
    compiled = lc.compile(wide(), target, calibration=wide_samples(), metric="relative_error", budget=budget)
    assert compiled.manifest["library"]["bytes"] <= share * FLOATS
    step = next(step for step in compiled.manifest["passes"] if step["pass"] == "quantization")
    assert dict(step["settings"]["layers"]) == precisions


@pytest.mark.parametrize(
    ("share", "drop", "why"),
    [(0.05, 0.1, "with all weights in as few bits"), (0.24, 1e-4, "costs too much of the metric")],
)
def test_a_budget_for_size_that_cannot_be_kept_says_how_near_it_came(share, drop, why):
    budget = lc.Budget(size_bytes=int(share * FLOATS), max_drop=drop)
    with pytest.raises(lc.BudgetError, match=why):
        lc.compile(wide(), "x86-64-v3", calibration=wide_samples(), metric="relative_error", budget=budget)


def test_without_samples_a_budget_for_size_is_told_what_would_help():
    with pytest.raises(lc.BudgetError, match="give calibration data"):
        lc.compile(wide(), "x86-64-v3", budget=lc.Budget(size_bytes=FLOATS // 2))


def net_of(text, **weights):
    """A model from ONNX's text, with these weights."""
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for number, node in enumerate(made.graph.node):
        node.name = f"{node.op_type}_{number}"
    made.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return made


def values(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) / 3).astype(np.float32)


def error_of(model, drop=0.1):
    """The relative error of the quantized model on samples of one input, and the layers that are quantized."""
    graph = import_model(model)
    (x,) = model.graph.input
    shape = [each.dim_value for each in x.type.tensor_type.shape.dim]
    data = [{x.name: np.random.default_rng(each).standard_normal(shape).astype(np.float32)} for each in range(12)]
    _, made, plan = adapted(model, drop=drop, data=data)
    answers = [(made.run(each), graph.run(each)) for each in data]
    apart = [np.linalg.norm(one["y"] - other["y"]) / np.linalg.norm(other["y"]) for one, other in answers]
    step = step_of(plan)
    return max(apart), [] if step is None else [name for name, _ in step.settings["layers"]]


@pytest.mark.parametrize(
    ("group", "weights"),
    [(2, values(16, 4, 3, 3)), (8, values(16, 1, 3, 3)), (8, values(8, 1, 3, 3))],
    ids=["groups", "multiplied channels", "depthwise"],
)
def test_convolutions_in_groups_are_calibrated(group, weights):
    model = net_of(
        f"g (float[1,8,12,12] x) => (float[1,{len(weights)},10,10] y) {{ r = Relu(x) y = Conv<group={group}>(r, w) }}",
        w=weights,
    )
    apart, layers = error_of(model)
    assert apart < 0.1 and layers == ["Conv_1"]


def test_layers_that_sum_over_other_axes_of_one_tensor_are_not_smoothed_together():
    model = net_of(
        """g (float[1,64,64] x) => (float[1,64,64] y)
        { r = Relu(x) a = Conv(r, w) b = MatMul(r, v) y = Add(a, b) }""",
        w=values(64, 64, 1),
        v=values(64, 64, seed=1) * np.geomspace(0.01, 1, 64, dtype=np.float32)[:, None],
    )
    apart, layers = error_of(model)
    assert apart < 0.1 and sorted(layers) == ["Conv_1", "MatMul_2"]


def test_a_bias_that_is_huge_beside_its_weights_is_kept():
    weights, bias = values(8, 16), values(8)
    weights[3] = 1e-12
    bias[3] = 5.0
    model = net_of("g (float[4,16] x) => (float[4,8] y) { r = Relu(x) y = Gemm<transB=1>(r, w, b) }", w=weights, b=bias)
    apart, layers = error_of(model)
    assert apart < 0.05 and layers == ["Gemm_1"]


def test_a_computed_bias_is_added_to():
    model = net_of(
        """g (float[4,16] x) => (float[4,8] y)
        { r = Relu(x) c = ReduceMean<axes=[1], keepdims=1>(r) y = Gemm<transB=1>(r, w, c) }""",
        w=values(8, 16) + 2,
    )
    apart, layers = error_of(model)
    assert apart < 0.05 and layers == ["Gemm_2"]


def test_a_plan_under_a_contract_is_for_these_weights():
    _, _, plan = adapted(net())
    with pytest.raises(lc.LeptonError, match="for other weights"):
        adapt(import_model(net(outlier=2.0)), resolve_target(TARGET), plan=lc.Plan.from_json(plan.to_json()))


def test_few_values_are_not_told_by_what_channels_are_divided_by():
    """The largest value of each channel of one row would be the sample."""
    model = net_of("g (float[1,16] x) => (float[1,8] y) { y = MatMul(x, w) }", w=values(16, 8))
    spread = np.geomspace(0.01, 30, 16, dtype=np.float32)
    data = [
        {"x": spread * np.random.default_rng(each).standard_normal((1, 16)).astype(np.float32)} for each in range(9)
    ]
    for drop in (0.02, 0.5):
        step = step_of(adapted(model, drop=drop, data=data)[2])
        assert step is None or not step.settings["smoothing"]


def test_what_is_narrowed_is_not_planned_again():
    target = resolve_target({"extends": "x86-64-v4", "cpu": {"features": ["+avx512bf16"]}, "name": "bfloat16"})
    contract = Contract(samples(), *metric_of("relative_error"), 0.1)
    _, plan = adapt(import_model(net()), target, context=Context(contract))
    assert [step.name for step in plan.steps].count("quantization") == 1
    assert {precision for _, precision in step_of(plan).settings["layers"]} == {"bfloat16"}


def variables(**shapes):
    return [gs.Variable(name, np.dtype(np.float32), shape) for name, shape in shapes.items()]


def products(rows):
    """Two products of matrices, the first of so many outputs that they tell each row that they are made of."""
    random = np.random.default_rng(0)
    sizes = (32, 256), (256, 8)
    weights = [gs.Constant(f"w{n}", (random.standard_normal(s) / 8).astype(np.float32)) for n, s in enumerate(sizes)]
    x, a, b, y = variables(x=(rows, 32), a=None, b=None, y=None)
    nodes = [
        gs.Node("MatMul", "one", {}, [x, weights[0]], [a]),
        gs.Node("Relu", "relu", {}, [a], [b]),
        gs.Node("MatMul", "two", {}, [b, weights[1]], [y]),
    ]
    return onnx.shape_inference.infer_shapes(gs.export_onnx(gs.Graph(nodes, [x], [y], opset=17)))


@pytest.mark.parametrize(("rows", "told"), [(1, False), (8, True)])
def test_no_mean_of_few_rows_is_kept(rows, told):
    """What is added for the mean of few rows would tell what they were."""
    random = np.random.default_rng(1)
    graph = import_model(products(rows))
    given = [{"x": random.standard_normal((rows, 32)).astype(np.float32)} for _ in range(12)]
    contract = Contract(given, *metric_of("cosine"), 0.5)
    _, plan = adapt(graph, resolve_target(TARGET), context=Context(contract))
    (step,) = (step for step in plan.steps if step.name == "quantization")
    assert dict(step.settings["layers"])["one"] == "int8"
    assert not step.settings["corrections"] or told


def test_memory_that_int8_alone_fits_into():
    """A target too small for float32 gets int8, not a fault of the pass."""
    rows = 4
    exact = lc.compile(products(rows), TARGET, tuning="model")
    whole = exact.manifest["memory"]["peak_bytes"]
    random = np.random.default_rng(1)
    given = [{"x": random.standard_normal((rows, 32)).astype(np.float32)} for _ in range(12)]
    target = resolve_target(TARGET)
    caller = sum(4 * math.prod(tensor.shape) for tensor in (*exact.inputs, *exact.outputs))
    memory = whole + PROCESS_BYTES + caller - 1
    small = replace(target, resources=replace(target.resources, memory_bytes=memory))
    with pytest.raises(lc.BudgetError):
        lc.compile(products(rows), small, tuning="model")
    made = lc.compile(products(rows), small, tuning="model", calibration=given, budget=lc.Budget(max_drop=0.5))
    assert made.manifest["memory"]["peak_bytes"] < whole


def test_a_budget_that_float32_just_fits_into_is_kept():
    """A library of int8 layers may be larger, for its code; it is not taken then."""
    random = np.random.default_rng(0)
    kernels = [gs.Constant(name, random.standard_normal((32, 1, 3, 3)).astype(np.float32)) for name in ("w0", "w1")]
    x, a, b, y = variables(x=(1, 32, 64, 64), a=None, b=None, y=None)
    attributes = {"group": 32, "pads": [1] * 4}
    nodes = [
        gs.Node("Conv", "one", attributes, [x, kernels[0]], [a]),
        gs.Node("Relu", "relu", {}, [a], [b]),
        gs.Node("Conv", "two", attributes, [b, kernels[1]], [y]),
    ]
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(gs.Graph(nodes, [x], [y], opset=17)))
    given = [{"x": random.standard_normal((1, 32, 64, 64)).astype(np.float32)} for _ in range(6)]
    exact = lc.compile(model, TARGET, tuning="model", exact_order=True).manifest["library"]["bytes"]
    budget = lc.Budget(max_drop=0.5, size_bytes=exact)
    made = lc.compile(model, TARGET, tuning="model", exact_order=True, calibration=given, budget=budget)
    assert made.manifest["library"]["bytes"] <= exact


def test_a_budget_for_latency_is_met_with_no_more_layers_than_it_takes():
    """By a metric that tells nothing apart: what costs least is what loses least."""
    target, graph = resolve_target(TARGET), import_model(net())
    bench = Workbench(target, "net", passes=None, tuning="model", exact_order=False, progress=lambda line: None)

    def total(of):
        return math.fsum(bench.seconds(of).values())

    def within(seconds):
        contract = Contract(samples(), "nothing", lambda answers, expected: 0.0, 1.0)
        budgeted = with_budget(target, lc.Budget(latency_s=seconds))
        made, plan = adapt(graph, budgeted, context=Context(contract, bench.seconds))
        layers = [dict(step.settings["layers"]) for step in plan.steps if step.name == "quantization"]
        return made, layers[0] if layers else {}

    fastest, every = within(1e-9)
    assert within(total(graph))[1] == {}
    made, some = within((total(graph) + total(fastest)) / 2)
    assert 0 < len(some) < len(every)
    assert total(made) <= (total(graph) + total(fastest)) / 2
