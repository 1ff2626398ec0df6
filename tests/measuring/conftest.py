"""A small model, compiled once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton_compile


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = the rows of a table of 5 that are asked for, times a matrix."""
    table = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    matrix = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="gather"),
        helper.make_node("MatMul", ["rows", "matrix"], ["product"], name="<matmul>"),
        helper.make_node("Relu", ["product"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 12, 8])],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def folder(model_file: Path) -> Path:
    return lepton_compile.compile(model_file).save(model_file.parent / "small.lepton")
