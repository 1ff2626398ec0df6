"""The benchmarks that need no pretrained models run, and all of them say how to use them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("program", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_benchmark_explains_itself(program: str) -> None:
    done = subprocess.run([sys.executable, FOLDER / program, "--help"], capture_output=True, text=True, check=True)
    assert f"python benchmarks/{program}" in done.stdout


def test_convolutions_are_measured(tmp_path: Path) -> None:
    arguments = ["--only", "3x3 18 -> 18", "--markdown", "--json", "result.json"]
    command = [sys.executable, FOLDER / "convolutions.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "| 3x3 18 -> 18 on 20x20 |" in done.stdout
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["convolution"]["inputs"] == 18
    assert 0 < row["computing"]["seconds"] < 1 and row["computing"]["bound"] > 0


def test_a_shape_that_is_not_there_is_refused() -> None:
    command = [sys.executable, FOLDER / "convolutions.py", "--only", "11x11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no shape has '11x11' in it; they are 1x1 512 -> 2048 on 7x7" in done.stderr


def test_a_model_that_is_not_there_is_refused() -> None:
    command = [sys.executable, FOLDER / "quantized.py", "--models", "alexnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no model alexnet; there are ppocr-det, ppocr-rec" in done.stderr


def test_a_net_that_is_not_there_is_refused() -> None:
    command = [sys.executable, FOLDER / "pruning.py", "--nets", "alexnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no net alexnet; there are lenet, resnet" in done.stderr


@pytest.mark.models
def test_a_net_is_pruned_beside_others(tmp_path: Path) -> None:
    arguments = ["--nets", "mlp", "--seeds", "1", "--seconds", "1", "--json", "result.json"]
    command = [sys.executable, FOLDER / "pruning.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Points at half of the multiply-adds" in done.stdout
    measured = json.loads((tmp_path / "result.json").read_text())["nets"]["mlp"]
    (accuracies,) = measured["accuracies"]
    assert accuracies["share"] <= 0.5 and min(accuracies["ours"], accuracies["from_nothing"]) > 0.9
    assert measured["speed"]["pruned"]["median"] < measured["speed"]["original"]["median"]


@pytest.mark.models
def test_a_model_is_quantized_beside_others(tmp_path: Path) -> None:
    arguments = ["--models", "ppocr-cls", "--threads", "1", "--samples", "6", "--seconds", "0", "--json", "result.json"]
    command = [sys.executable, FOLDER / "quantized.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "| ppocr-cls | off by 0.0000 |" in done.stdout
    measured = json.loads((tmp_path / "result.json").read_text())["models"]["ppocr-cls"]
    assert measured["engines"]["onnxruntime float32"]["holds"] and not measured["engines"]["onnxruntime int8"]["holds"]
    assert measured["engines"]["ours float32"]["holds"] and measured["times_faster_than_best_peer"]["1"] > 0
