from __future__ import annotations

import numpy as np
import onnx
import pytest


@pytest.fixture
def model(tmp_path):
    random = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(random.standard_normal((16, 32)).astype(np.float32), "w")
    graph = onnx.parser.parse_graph("g (float[1,32] x) => (float[1,16] y) { y = Gemm<transB=1>(x, w) }")
    graph.initializer.append(weights)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((12, 32)).astype(np.float32))
    return tmp_path / "data.npz"


def test_calibration_data_from_a_file(lepton, model, data, tmp_path):
    options = ["--calibration", data, "--metric", "cosine", "--budget", "drop=1%"]
    assert lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", *options).code == 0
    assert '"name": "cosine"' in (tmp_path / "out" / "plan.json").read_text()


def test_a_target_that_gains_nothing_says_so(lepton, model, data, tmp_path):
    outcome = lepton("compile", model, "--target", "x86-64-v3", "-o", tmp_path / "out", "--calibration", data)
    assert outcome.code == 0
    assert "nothing is quantized: target 'x86-64-v3' has no instruction" in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibration", "nowhere.npz"], "there is no calibration data at nowhere.npz"),
        (["--metric", "cosine"], "give calibration data"),
        (["--budget", "drop=much"], "is not a number"),
        (["--budget", "drop=-1"], "is not 0 or more"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(lepton, model, tmp_path, options, message):
    outcome = lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
