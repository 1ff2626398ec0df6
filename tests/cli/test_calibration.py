from __future__ import annotations

import numpy as np
import onnx
import pytest

import lepton_compile as lc


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
    assert "quantization changes nothing: target 'x86-64-v3' has no instruction" in outcome.out


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


GOOD = np.random.default_rng(1).standard_normal((12, 32)).astype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": GOOD}, "lacks the input 'x'"),
        ({"x": GOOD, "y": GOOD}, "has 'y'"),
        ({"x": GOOD[:, :31]}, "has shape [12, 31]"),
        ({"x": np.where(GOOD > 2, np.nan, GOOD)}, "NaN or infinities"),
        ({"x": np.where(GOOD > 2, np.inf, GOOD)}, "NaN or infinities"),
        ({"x": np.ones_like(GOOD)}, "the same one over and over"),
        ({"x": GOOD[:0]}, "there is no calibration data"),
        ({"x": GOOD[:1]}, "is one sample"),
        ({"x": GOOD, "labels": np.arange(5)}, "5 labels for 12 samples"),
    ],
    ids=["missing", "unknown", "shape", "nan", "inf", "constant", "empty", "one", "labels"],
)
def test_data_that_cannot_be_used_is_one_line_and_nothing_is_written(lepton, model, tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    outcome = lepton(
        "compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", "--calibration", tmp_path / "bad.npz"
    )
    assert outcome.code == 2
    assert message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_contract_that_nothing_holds_gives_the_exact_model_and_says_so(lepton, model, data, tmp_path):
    options = ["--calibration", data, "--metric", "relative_error", "--budget", "drop=0"]
    outcome = lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", *options)
    assert outcome.code == 0
    assert "quantization changes nothing: no layer holds the contract" in outcome.out


def test_a_size_that_cannot_be_met_is_exit_code_3_and_nothing_is_written(lepton, model, data, tmp_path):
    options = ["--calibration", data, "--budget", "size=1KB,drop=1%"]
    outcome = lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", *options)
    assert outcome.code == 3
    said = outcome.err.splitlines()[-1]
    assert said.startswith("error: the weights alone take") and "in as few bits as there are kernels for" in said
    assert not (tmp_path / "out").exists()


def test_a_size_that_only_the_quantized_model_keeps_is_met(tmp_path):
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    graph = onnx.parser.parse_graph("g (float[1,512] x) => (float[1,512] y) { y = Gemm<transB=1>(x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    samples = np.random.default_rng(1).standard_normal((12, 512)).astype(np.float32)
    budget = lc.Budget(size_bytes=600_000, max_drop=0.05)
    with pytest.raises(lc.BudgetError):
        lc.compile(model, "x86-64-v4-vnni", budget=budget)
    made = lc.compile(model, "x86-64-v4-vnni", budget=budget, calibration=samples)
    assert any(step["pass"] == "quantization" for step in made.manifest["passes"])


def test_a_key_names_another_decision(lepton, model, data, tmp_path):
    for number in (1, 2):
        options = ["--calibration", data, "--key", f"mine {number}"]
        assert lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "out", *options).code == 0
    outcome = lepton("compile", model, "--target", "x86-64-v4-vnni", "-o", tmp_path / "none", "--key", "mine")
    assert outcome.code == 2 and "give calibration data" in outcome.err
