"""What other engines do to the process that measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_compile.errors import LeptonError
from lepton_compile.measuring.peers import load_peer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    value = helper.make_tensor_value_info("a/b:0", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Neg", ["a/b:0"], ["y"])], "net", [value], [result])
    path = tmp_path / "net.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_an_engine_that_crashes_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LeptonError, match=r"openvino crashes on the model \(SIGSEGV\)"):
        load_peer("openvino", model, {"a/b:0": np.ones(2, np.float32)}, 1)


def test_an_engine_that_works_answers(model: Path) -> None:
    run = load_peer("onnxruntime", model, {"a/b:0": np.ones(2, np.float32)}, 1)
    assert run({"a/b:0": np.array([1, -2], np.float32)})["y"].tolist() == [-1, 2]


def test_a_precision_that_an_engine_has_not_is_refused(model: Path) -> None:
    with pytest.raises(LeptonError, match="onnxruntime is not measured in bfloat16"):
        load_peer("onnxruntime", model, {"a/b:0": np.ones(2, np.float32)}, 1, "bfloat16")
