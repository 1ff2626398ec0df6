"""The reference is onnxruntime with Sigmoid spelled out, since its own loses all digits where the result is small."""

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


def test_a_model_without_sigmoid_stays_as_it_is():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]> g (float[3] x) => (float[3] y) { y = Relu(x) }""")
    assert precise(model) == model
    answers = reference_answers(Graph.from_model(model), {"x": np.array([-1, 0, 2], np.float32)})
    assert answers["y"].tolist() == [0, 0, 2]
