"""The benchmark runs, and says what it measured and where."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.models

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "latency.py"


def test_the_benchmark_measures_every_engine(tmp_path):
    command = [sys.executable, PROGRAM, "--models", "silero-16k-sequence", "--seconds", "0", "--json", "result.json"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "silero-16k-sequence" in printed
    result = json.loads((tmp_path / "result.json").read_text())
    engines = result["models"]["silero-16k-sequence"]
    assert {"lepton_compile", "onnxruntime"} <= engines.keys()
    for measured in engines.values():
        assert measured["problem"] == ""
        assert measured["fastest"] <= measured["median"] and measured["runs"] >= 5
    expected = engines["lepton_compile"]["median"] / engines["onnxruntime"]["median"]
    assert result["geometric_means_of_ours_over"]["all"]["onnxruntime"] == pytest.approx(expected)
    assert result["machine"]["versions"]["onnxruntime"] and result["machine"]["processor"]


def test_an_unknown_model_is_refused():
    outcome = subprocess.run([sys.executable, PROGRAM, "--models", "resnet"], capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "there is no model resnet; there are ppocr-det, " in outcome.stderr
