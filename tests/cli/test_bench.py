"""`lepton bench`: what it prints and writes, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lepton_compile
from lepton_compile.measuring import bench as benching
from lepton_compile.measuring import peers
from lepton_compile.measuring.roofline import Roofline


@pytest.fixture
def folder(lepton, small_model, tmp_path) -> Path:
    outcome = lepton("compile", small_model, "--shape", "x=2,7", "-o", tmp_path / "small.lepton")
    assert outcome.code == 0, outcome.err
    return tmp_path / "small.lepton"


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "measure_roofline", lambda target, threads: Roofline(1e12, {1 << 18: 1e12}))


def test_latency_is_printed(lepton, folder):
    outcome = lepton("bench", folder, "--seconds", "0", "--threads", "1")
    assert outcome.code == 0, outcome.err
    for part in ("random inputs: x", "1 thread\n", "median ms", "lepton_compile"):
        assert part in outcome.out
    assert "of peak" not in outcome.out


def test_other_engines_run_the_model(lepton, folder, small_model):
    outcome = lepton("bench", folder, "--seconds", "0", "--against", "onnxruntime", "--model", small_model)
    assert outcome.code == 0, outcome.err
    assert "onnxruntime" in outcome.out and "times ours" in outcome.out


def test_a_profile_is_printed_and_written(lepton, folder, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 7), np.float32))
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--seconds", "0")
    written = ("--json", tmp_path / "b.json", "--html", tmp_path / "b.html")
    outcome = lepton("bench", folder, *given, "--profile", *written)
    assert outcome.code == 0, outcome.err
    for part in ("of peak", "of roofline", "all steps", "add", "peak 1000.0 GFLOP/s", f"wrote {tmp_path / 'b.html'}"):
        assert part in outcome.out
    assert "random inputs" not in outcome.out
    assert json.loads((tmp_path / "b.json").read_text())["steps"]
    assert (tmp_path / "b.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_has_the_steps_even_if_they_are_not_printed(lepton, folder, tmp_path):
    outcome = lepton("bench", folder, "--seconds", "0", "--html", tmp_path / "b.html")
    assert outcome.code == 0, outcome.err
    assert "all steps" not in outcome.out and "<svg" in (tmp_path / "b.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--threads", "0"], "threads is 0"),
        (["--seconds", "-1"], "seconds is -1"),
        (["--against", "torch"], "there is no engine 'torch'"),
        (["--against", "onnxruntime"], "(--model)"),
        (["--against", "onnxruntime", "--model", "missing.onnx"], "missing.onnx can not be read"),
        (["--input", "x=missing.npy"], "missing.npy"),
        (["--input", "x"], "NAME=VALUE"),
        (["--json", "nowhere/b.json"], "nowhere"),
        (["--html", "nowhere/b.html"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line(lepton, folder, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    outcome = lepton("bench", folder, *(() if "--seconds" in arguments else ("--seconds", "0")), *arguments)
    assert outcome.code == 2
    assert outcome.err.count("error: ") == 1 and "Traceback" not in outcome.err
    assert part in outcome.err


def test_files_are_tried_before_anything_is_measured(lepton, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(lepton_compile, "bench", lambda *_, **__: pytest.fail("it measured"))
    for wrong in (tmp_path, tmp_path / "nowhere" / "b.html"):
        assert lepton("bench", folder, "--html", wrong).code == 2


def test_an_engine_that_is_not_installed(lepton, folder, monkeypatch):
    monkeypatch.setattr(peers, "is_installed", lambda engine: False)
    outcome = lepton("bench", folder, "--against", "ncnn")
    assert (outcome.code, outcome.err) == (2, "error: ncnn is not installed: pip install ncnn pnnx\n")


def test_no_folder(lepton, tmp_path):
    outcome = lepton("bench", tmp_path)
    assert outcome.code == 2
    assert "manifest.json is missing" in outcome.err
