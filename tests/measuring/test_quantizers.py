"""The quantizers of other engines make models that these load and that answer about the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.measuring.peers import load_peer
from lepton_compile.measuring.quantizers import QUANTIZERS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(conv(x) + 0) times a matrix, with a dynamic batch, in opset 11, and zeros that ConstantOfShape makes."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "m": random.standard_normal((8, 4)).astype(np.float32),
        "size": np.array([8, 1, 1]),
        "flat": np.array([0, -1]),
    }
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Conv", ["x", "w"], ["conv"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Add", ["conv", "zeros"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Reshape", ["mean", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "m"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_model_is_quantized(model: Path, tmp_path: Path, quantizer: str) -> None:
    engine = quantizer.partition(" ")[0]
    if engine == "openvino":
        pytest.importorskip("nncf")
    random = np.random.default_rng(1)
    samples = [{"x": random.random((1, 3, 12, 12), np.float32)} for _ in range(8)]
    folder = tmp_path / "made"
    folder.mkdir()
    made = QUANTIZERS[quantizer](model, samples, folder)
    runs = [load_peer(engine, made, samples[0], 1), load_peer("onnxruntime", model, samples[0], 1)]
    answers, originals = (np.concatenate([run(sample)["y"] for sample in samples]) for run in runs)
    error = np.linalg.norm(answers - originals) / np.linalg.norm(originals)
    assert 1e-6 < error < 0.1
