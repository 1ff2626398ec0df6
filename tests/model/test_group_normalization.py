"""GroupNormalization of every version, wherever it stands, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.errors import LeptonError
from lepton_compile.model import import_model


def node(inputs: str, output: str, **attributes: float) -> onnx.NodeProto:
    return helper.make_node("GroupNormalization", inputs.split(), [output], **attributes)


def model(nodes: list[onnx.NodeProto], opset: int, shape: list[int], functions: list = ()) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    scales = 3 if opset < 21 else shape[1]
    weights = [numpy_helper.from_array(rng.standard_normal(scales).astype(np.float32), name) for name in "sb"]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def assert_same(made: onnx.ModelProto) -> None:
    before = made.SerializeToString(deterministic=True)
    shape = [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 3 + 1
    (expected,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(import_model(made).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    assert made.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [18, 20, 21, 22])
@pytest.mark.parametrize("shape", [[2, 6, 5], [1, 6, 7, 9], [3, 6]])
def test_two_in_a_row(opset: int, shape: list[int]) -> None:
    nodes = [node("x s b", "z", num_groups=3), node("z s b", "y", num_groups=3, epsilon=0.1)]
    assert_same(model(nodes, opset, shape))


def test_in_a_branch() -> None:
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 6, 5])
    then = helper.make_graph([node("x s b", "r", num_groups=3)], "then", [], [result])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["r"])], "other", [], [result])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("IsNaN", ["sum"], ["nan"]),
        helper.make_node("Not", ["nan"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other),
    ]
    assert_same(model(nodes, 21, [2, 6, 5]))


def test_in_a_function() -> None:
    function = helper.make_function(
        "own", "Norm", ["a", "s", "b"], ["c"], [node("a s b", "c", num_groups=3)], [helper.make_opsetid("", 21)]
    )
    call = helper.make_node("Norm", ["x", "s", "b"], ["y"], domain="own")
    assert_same(model([call], 21, [2, 6, 5], [function]))


def test_what_is_not_valid_stays_for_the_checker() -> None:
    for wrong in (node("x s b", "y"), node("x s", "y", num_groups=3)):
        with pytest.raises(LeptonError, match="GroupNormalization"):
            import_model(model([wrong], 21, [2, 6, 5]))
    with pytest.raises(LeptonError, match="GroupNormalization"):
        import_model(model([node("x s b", "y", num_groups=3)], 17, [2, 6, 5]))
