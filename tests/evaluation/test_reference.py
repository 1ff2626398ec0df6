"""The reference is onnxruntime, with what it does not compute precisely spelled out."""

import numpy as np
import onnx.parser
import pytest

from lepton_compile.evaluation.reference import precise, reference_answers
from lepton_compile.model import Graph
from lepton_compile.model.execution import evaluate

X = np.linspace(-80, 20, 101, dtype=np.float32)
EXACT = 1 / (1 + np.exp(-X.astype(np.float64)))


@pytest.mark.parametrize("header", ['ir_version: 10, opset_import: ["": 21]', 'ir_version: 3, opset_import: ["": 7]'])
def test_sigmoid_is_precise_where_its_result_is_small(header):
    model = onnx.parser.parse_model(f"<{header}>" + "g (float[101] x) => (float[101] y) { y = Sigmoid(x) }")
    before = model.SerializeToString()
    spelled = precise(model)
    onnx.checker.check_model(spelled, full_check=True)
    np.testing.assert_allclose(evaluate(spelled, {"x": X})["y"], EXACT, rtol=1e-6)
    assert np.abs(evaluate(model, {"x": X})["y"] / EXACT - 1).max() > 0.5, "onnxruntime's own has become precise"
    assert model.SerializeToString() == before


def test_subgraphs_are_spelled_out_and_other_types_left_alone():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (bool c, float[101] x, double[101] d) => (float[101] y, double[101] e) {
            e = Sigmoid(d)
            y = If (c) <
                then_branch = yes () => (float[101] a) { a = Sigmoid(x) },
                else_branch = no () => (float[101] b) { b = Identity(x) }
            >
        }""")
    answers = evaluate(precise(model), {"c": np.array(True), "x": X, "d": X.astype(np.float64)})
    np.testing.assert_allclose(answers["y"], EXACT, rtol=1e-6)
    assert [node.op_type for node in precise(model).graph.node] == ["Sigmoid", "If"]


@pytest.mark.parametrize("opset", [11, 21])
def test_averages_of_many_values_are_precise(opset):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[2,3,160,160] x) => (float[2,3,1,1] y) {{ y = GlobalAveragePool(x) }}""")
    levels = np.linspace(1.1, 2.9, 6).reshape(2, 3, 1, 1)
    x = np.broadcast_to(levels, (2, 3, 160, 160)).astype(np.float32)  # roundings of a flat background all go one way
    exact = x.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(evaluate(precise(model), {"x": x})["y"], exact, rtol=1e-6)
    own = evaluate(model, {"x": x})["y"]
    assert np.abs(own / exact - 1).max() > 1e-5, "onnxruntime's own has become precise"


def test_other_models_stay_as_they_are():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]> g (float[3] x) => (float[3] y) { y = Relu(x) }""")
    assert precise(model) == model
    answers = reference_answers(Graph.from_model(model), {"x": np.array([-1, 0, 2], np.float32)})
    assert answers["y"].tolist() == [0, 0, 2]
