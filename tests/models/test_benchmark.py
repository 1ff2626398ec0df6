"""The benchmarks run, and say what they measured and where."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.models

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(program: str, *arguments: str, folder: Path) -> tuple[str, dict]:
    """What a benchmark prints and writes."""
    command = [sys.executable, FOLDER / program, *arguments, "--json", "result.json", "--markdown"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return printed, json.loads((folder / "result.json").read_text())


def test_latency_measures_every_engine(tmp_path):
    models = "silero-16k-sequence,silero"
    printed, result = run("latency.py", "--models", models, "--seconds", "0", folder=tmp_path)
    assert "| (silero-16k-sequence) |" in printed and "| silero |" in printed
    for model in result["models"].values():
        assert {"lepton_compile", "onnxruntime"} <= model["engines"].keys()
        for name in ("lepton_compile", "onnxruntime"):
            measured = model["engines"][name]
            assert measured["problem"] == ""
            assert measured["latency"]["minimum"] <= measured["latency"]["median"]
            assert measured["latency"]["runs"] >= 5
        assert model["roofline_seconds"] > 0 and 0 < model["profiled_seconds"] < 1
    # The mean is over the published variant alone.
    silero = result["models"]["silero"]
    assert silero["counted"] and not result["models"]["silero-16k-sequence"]["counted"]
    expected = (
        silero["engines"]["onnxruntime"]["latency"]["median"] / silero["engines"]["lepton_compile"]["latency"]["median"]
    )
    assert result["geometric_means_of_times_faster"]["onnxruntime"] == pytest.approx(expected)
    assert result["machine"]["versions"]["onnxruntime"] and result["machine"]["processor"]
    assert result["roofline"]["peak"] > 1e8


def test_footprint_measures_fresh_processes(tmp_path):
    printed, result = run("footprint.py", "--models", "silero-16k-sequence", folder=tmp_path)
    assert "load to first answer" in printed
    model = result["models"]["silero-16k-sequence"]
    assert model["cold_seconds"] > 0 and model["warm_seconds"] > 0
    ours, nothing = model["starts"]["lepton_compile"], model["starts"]["numpy alone"]
    assert 0 < ours["seconds"] < ours["process_seconds"]
    assert 0 < nothing["peak_bytes"] < model["starts"]["onnxruntime"]["peak_bytes"]
    assert 0 < ours["size_bytes"] < model["starts"]["onnxruntime"]["size_bytes"]


@pytest.mark.parametrize("program", ["latency.py", "footprint.py"])
def test_an_unknown_model_is_refused(program):
    command = [sys.executable, FOLDER / program, "--models", "resnet"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "there is no model resnet; there are ppocr-det, " in outcome.stderr
