"""Every command does its work on a small model."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

import lepton_compile

SHAPE = ("--shape", "x=2,7")


@pytest.fixture
def folder(lepton, small_model, tmp_path) -> Path:
    outcome = lepton("compile", small_model, *SHAPE, "-o", tmp_path / "small.lepton")
    assert outcome.code == 0, outcome.err
    return tmp_path / "small.lepton"


def test_compile_writes_the_artefact_and_says_so(lepton, small_model, tmp_path):
    folder = tmp_path / "deep" / "small.lepton"
    outcome = lepton("compile", small_model, *SHAPE, "-o", folder)
    assert outcome.code == 0, outcome.err
    assert str(folder) in outcome.out
    assert {"libsmall.so", "small.h", "manifest.json"} <= {path.name for path in folder.iterdir()}


def test_compile_names_the_folder_after_the_model(lepton, small_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lepton("compile", small_model, *SHAPE).code == 0
    assert (tmp_path / "small.lepton" / "manifest.json").is_file()


def test_compile_shows_progress_as_lines_when_stderr_is_no_terminal(lepton, small_model, tmp_path):
    outcome = lepton("compile", small_model, *SHAPE, "-o", tmp_path / "out")
    assert "\x1b" not in outcome.err
    assert len(outcome.err.splitlines()) >= 2


def test_a_saved_plan_can_be_replayed(lepton, small_model, folder, tmp_path):
    plan = folder / "plan.json"
    outcome = lepton("compile", small_model, *SHAPE, "--plan", plan, "-o", tmp_path / "again.lepton")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "again.lepton" / "plan.json").read_text() == plan.read_text()


def test_dump_writes_graphs(lepton, small_model, tmp_path):
    outcome = lepton("compile", small_model, *SHAPE, "-o", tmp_path / "out", "--dump", tmp_path / "dump", "--verify")
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "dump").glob("*.onnx"))


def test_run_on_given_inputs(lepton, folder, tmp_path):
    x = np.linspace(-3, 3, 14, dtype=np.float32).reshape(2, 7)
    np.save(tmp_path / "x.npy", x)
    outcome = lepton("run", folder, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "out.npz")
    assert outcome.code == 0, outcome.err
    assert "random" not in outcome.out + outcome.err
    assert "[2, 7]" in outcome.out
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], np.maximum(x + x, 0))


def test_run_says_when_inputs_are_random(lepton, folder):
    outcome = lepton("run", folder)
    assert outcome.code == 0, outcome.err
    assert "random" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("name", "array", "part"),
    [
        ("x", np.zeros((2, 8), np.float32), "8"),
        ("x", np.zeros((2, 7), np.float64), "float64"),
        ("images", np.zeros((2, 7), np.float32), "images"),
    ],
)
def test_run_refuses_inputs_that_do_not_fit(lepton, folder, tmp_path, name, array, part):
    np.save(tmp_path / "a.npy", array)
    outcome = lepton("run", folder, "--input", f"{name}={tmp_path / 'a.npy'}")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert part in outcome.err


@pytest.mark.parametrize("content", [None, b"", b"no array", b"PK\x03\x04"])
def test_run_refuses_files_that_hold_no_array(lepton, folder, tmp_path, content):
    path = tmp_path / "a.npy"
    if content is not None:
        path.write_bytes(content)
    outcome = lepton("run", folder, "--input", f"x={path}")
    assert outcome.code == 2
    assert str(path) in outcome.err


def test_inspect_a_model(lepton, small_model):
    outcome = lepton("inspect", small_model)
    assert outcome.code == 0, outcome.err
    for part in ("[batch, 7]", "float32", "Relu", "Add", "21", "--shape x="):
        assert part in outcome.out


def test_inspect_a_folder(lepton, folder):
    outcome = lepton("inspect", folder)
    assert outcome.code == 0, outcome.err
    for part in ("host", "[2, 7]", "arena", "kernels"):
        assert part in outcome.out


def test_bisect_finds_nothing_in_a_good_model(lepton, small_model):
    outcome = lepton("bisect", small_model, *SHAPE)
    assert outcome.code == 0, outcome.err
    assert outcome.out


def test_targets_are_listed(lepton):
    outcome = lepton("targets")
    assert outcome.code == 0, outcome.err
    for target in lepton_compile.list_targets():
        assert target.name in outcome.out
    assert "0.19" in next(line for line in outcome.out.splitlines() if line.startswith("raspberry-pi-4"))


def test_a_target_is_shown_as_a_file_that_resolves_to_it(lepton, tmp_path):
    outcome = lepton("targets", "show", "raspberry-pi-4")
    assert outcome.code == 0, outcome.err
    (tmp_path / "shown.toml").write_text(outcome.out)
    shown = lepton_compile.resolve_target(tmp_path / "shown.toml")
    assert shown == lepton_compile.resolve_target("raspberry-pi-4")
    assert outcome.out.startswith("# score 0.19")
    assert "#   0.25  0.17  bandwidth: 4.8 GB/s\n" in outcome.out
    assert "#   0.25     -  bandwidth: not known\n" in lepton("targets", "show", "cortex-a72").out


def test_this_machine_is_sensed_into_a_file(lepton, tmp_path):
    assert tomllib.loads(lepton("targets", "sense").out)
    outcome = lepton("targets", "sense", "-o", tmp_path / "my.toml")
    assert outcome.code == 0, outcome.err
    carried, host = lepton_compile.resolve_target(tmp_path / "my.toml"), lepton_compile.sense_host()
    assert (carried.cpu, carried.features, carried.resources.cores) == (host.cpu, host.features, host.resources.cores)
    # Elsewhere, "host" and "this machine" are others.
    assert carried.name == "my"
    assert host.description == f"this machine: {carried.description}"
    assert lepton("targets", "sense", "-o", tmp_path / "missing" / "my.toml").code == 2


def test_passes_are_listed(lepton):
    outcome = lepton("passes")
    assert outcome.code == 0, outcome.err
    for entry in lepton_compile.list_passes():
        assert entry.name in outcome.out
        assert entry.summary in outcome.out
        assert not entry.error


def test_version(lepton):
    assert lepton("--version").out.strip()


def test_no_arguments_show_the_help(lepton):
    outcome = lepton()
    assert outcome.code == 0
    assert "compile" in outcome.out
