from __future__ import annotations

import numpy as np
import onnx
import pytest

from lepton_compile.model import import_model
from lepton_compile.quantization.narrowing import find_products, narrow, rounded


def attention():
    """A projection, and the product of what it gives with itself."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((8, 8)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["p"], "project"),
        onnx.helper.make_node("Transpose", ["p"], ["t"], "turn", perm=[0, 2, 1]),
        onnx.helper.make_node("MatMul", ["p", "t"], ["y"], "score"),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 5, 8]), ("y", [1, 5, 5]))
    ]
    initializers = [onnx.numpy_helper.from_array(weights, "w")]
    graph = onnx.helper.make_graph(nodes, "attention", values[:1], values[1:], initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), weights


def test_factors_are_rounded_and_sums_are_not():
    model, weights = attention()
    graph = import_model(model)
    x = np.random.default_rng(1).standard_normal((1, 5, 8)).astype(np.float32)
    assert len(find_products(graph)) == 2
    narrow(graph, find_products(graph))
    graph.infer_shapes()
    projected = rounded(rounded(x) @ rounded(weights))
    assert np.allclose(graph.run({"x": x})["y"], projected @ projected.transpose(0, 2, 1), rtol=1e-6, atol=1e-6)
    assert np.array_equal(graph.session().run({"x": x})["y"], graph.run({"x": x})["y"])
    # What both products read is rounded once, where it is computed.
    assert sum(node.op == "Cast" for node in graph.gs.nodes) == 4


def test_a_node_that_is_not_there_is_named():
    graph = import_model(attention()[0])
    with pytest.raises(ValueError, match="no layer 'turn'"):
        narrow(graph, ["turn"])
