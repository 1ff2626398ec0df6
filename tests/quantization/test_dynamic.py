from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_compile as lc
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import Graph, import_model
from lepton_compile.planning import adapt
from lepton_compile.quantization.dynamic import find_dynamic
from lepton_compile.quantization.recipe import BFLOAT16, DYNAMIC_INT8, INT8, Recipe, follow
from lepton_compile.rewriting import Context
from lepton_compile.rewriting.patterns import producer
from lepton_compile.target import resolve_target

TARGET = "x86-64-v4-vnni"


def exported(nodes: list[gs.Node], x: gs.Variable, *outputs: gs.Variable) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(gs.export_onnx(gs.Graph(nodes, [x], list(outputs), opset=17)))


def floats(name: str, *shape: int) -> gs.Variable:
    return gs.Variable(name, np.dtype(np.float32), shape or None)


def weights(*shape: int) -> np.ndarray:
    random = np.random.default_rng(shape)
    return (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def chain() -> onnx.ModelProto:
    """Two products that read the same, and one behind them; as large as what it reads."""
    x, a, b, r, y = floats("x", 6, 48), *(floats(name) for name in "abry")
    return exported(
        [
            gs.Node("MatMul", "first", {}, [x, gs.Constant("v", weights(48, 40))], [a]),
            gs.Node("Gemm", "second", {"transB": 1}, [x, gs.Constant("w", weights(40, 48))], [b]),
            gs.Node("Max", "max", {}, [a, b], [r]),
            gs.Node("MatMul", "third", {}, [r, gs.Constant("u", weights(40, 24))], [y]),
        ],
        x,
        y,
    )


def samples(spread: float, count: int = 18) -> list[dict[str, np.ndarray]]:
    """Inputs whose sizes spread by this factor."""
    random = np.random.default_rng(0)
    factors = np.geomspace(1, spread, count)[random.permutation(count)]
    return [{"x": (factor * random.standard_normal((6, 48))).astype(np.float32)} for factor in factors]


def planned(spread: float, policy: tuple[str, ...] = ("int8", "float32"), drop: float = 0.05) -> dict[str, str]:
    """What each layer computes in under a contract."""
    target = resolve_target(TARGET)
    target = replace(target, policy=replace(target.policy, precision=policy))
    contract = Contract(samples(spread), *metric_of("relative_error"), drop)
    _, plan = adapt(import_model(chain()), target, context=Context(contract))
    step = next((step for step in plan.steps if step.name == "quantization"), None)
    return {} if step is None else dict(step.settings["layers"])


def dynamically(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = import_model(model)
    names = find_dynamic(graph, [node.name for node in graph.gs.nodes])
    return follow(Recipe(dict.fromkeys(names, DYNAMIC_INT8), {}), graph).to_model()


def test_ranges_of_each_run_hold_where_fixed_ones_do_not() -> None:
    assert planned(1000.0) == dict.fromkeys(("first", "second", "third"), DYNAMIC_INT8)


def test_fixed_ranges_are_taken_where_they_hold() -> None:
    assert planned(1.5) == dict.fromkeys(("first", "second", "third"), "int8")


def measured(graph: Graph, of_range: float) -> dict[str, float]:
    """Seconds of each node: products take less in bytes, and a range so much."""
    seconds = {}
    for node in graph.gs.nodes:
        in_bytes = any(
            producer(tensor) is not None and producer(tensor).op == "DequantizeLinear" for tensor in node.inputs
        )
        known = {"MatMulInteger": 4.0, "DynamicQuantizeLinear": of_range} | dict.fromkeys(
            ("MatMul", "Gemm"), 3.0 if in_bytes else 10.0
        )
        seconds[node.name] = known.get(node.op, 0.0)
    return seconds


def test_layers_share_what_a_range_takes() -> None:
    contract = Contract(samples(1000.0), *metric_of("relative_error"), 0.05)
    _, plan = adapt(
        import_model(chain()), resolve_target(TARGET), context=Context(contract, lambda graph: measured(graph, 1.0))
    )
    step = next(step for step in plan.steps if step.name == "quantization")
    saved = {each["layer"]: each["seconds saved"][DYNAMIC_INT8] for each in step.findings["layers"]}
    assert saved == {"first": 5.5, "second": 5.5, "third": 5.0}


@pytest.mark.parametrize(("spread", "builds"), [(1.5, 0), (1000.0, 1)])
def test_ranges_of_each_run_are_measured_where_fixed_ones_do_not_hold(spread, builds) -> None:
    """As slow as this range is, they are not taken."""
    seen = []

    def measure(graph: Graph) -> dict[str, float]:
        seen.append(any(node.op == "DynamicQuantizeLinear" for node in graph.gs.nodes))
        return measured(graph, 13.0)

    contract = Contract(samples(spread), *metric_of("relative_error"), 0.05)
    _, plan = adapt(import_model(chain()), resolve_target(TARGET), context=Context(contract, measure))
    assert sum(seen) == builds
    taken = [dict(step.settings["layers"]) for step in plan.steps if step.name == "quantization"]
    assert not any(DYNAMIC_INT8 in layers.values() for layers in taken)


def test_the_policy_decides_about_integers() -> None:
    assert planned(1000.0, ("bfloat16", "float32")) == {}


def test_what_several_layers_read_is_quantized_once() -> None:
    operators = [node.op_type for node in dynamically(chain()).graph.node]
    assert operators.count("DynamicQuantizeLinear") == 2 and operators.count("MatMulInteger") == 3


def test_it_reads_what_was_there_before_others_round_it() -> None:
    precisions = {"first": INT8, "second": DYNAMIC_INT8, "third": BFLOAT16}
    made = follow(Recipe(precisions, {"x": (0.5, 128)}), import_model(chain()))
    (node,) = (node for node in made.gs.nodes if node.op == "DynamicQuantizeLinear")
    assert node.inputs[0].name == "x"
    assert [reader.op for reader in made.gs.inputs[0].outputs] == ["QuantizeLinear", "DynamicQuantizeLinear"]


def test_the_library_gives_the_answers_of_the_graph() -> None:
    if not resolve_target("host").has_dot_products:
        pytest.skip("this machine has no instruction for products of bytes")
    data = samples(1000.0)
    contract = {"calibration": data, "metric": "relative_error", "budget": lc.Budget(max_drop=0.05)}
    target = resolve_target("host")
    compiled = lc.compile(chain(), target, tuning="model", **contract)
    made, _ = adapt(import_model(chain()), target, plan=lc.Plan.from_json((compiled.folder / "plan.json").read_text()))
    for each in data:
        expected = made.run(each)["y"]
        assert np.linalg.norm(compiled.run(each)["y"] - expected) < 1e-3 * np.linalg.norm(expected)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 9),
    inner=st.integers(1, 40),
    columns=st.integers(1, 30),
    transposed=st.booleans(),
    bias=st.sampled_from([None, "known", "computed"]),
    beta=st.sampled_from([1.0, 0.5]),
    factor=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_products_are_off_by_what_rounding_takes(rows, inner, columns, transposed, bias, beta, factor) -> None:
    """A step of x, whose zero point is rounded as well, and half a one of w; 1/255 and 1/127 of their ranges."""
    x, y, c = floats("x", rows, inner), floats("y"), floats("c")
    w = weights(inner, columns)
    nodes = []
    inputs = [x, gs.Constant("w", np.ascontiguousarray(w.T) if transposed else w)]
    if bias == "known":
        inputs.append(gs.Constant("b", weights(columns, 1)[:, 0]))
    if bias == "computed":
        nodes.append(gs.Node("ReduceSum", "sum", {"keepdims": 1}, [x, gs.Constant("axes", np.array([1]))], [c]))
        inputs.append(c)
    attributes = {"transB": int(transposed), "beta": beta}
    model = exported([*nodes, gs.Node("Gemm", "layer", attributes, inputs, [y])], x, y)
    values = (np.random.default_rng(inner).standard_normal((rows, inner)) * factor).astype(np.float32)
    answers = []
    for proto in (model, dynamically(model)):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["y"], {"x": values})[0])
    step = (max(values.max(), 0) - min(values.min(), 0)) / 255
    of_x, of_w = step, np.abs(w).max(axis=0) / 127 / 2
    bound = of_x * np.abs(w).sum(axis=0) + (np.abs(values).sum(axis=1, keepdims=True) + inner * step) * of_w
    assert (np.abs(answers[0] - answers[1]) <= bound + 1e-5 * np.abs(answers[0]).max()).all()
