from __future__ import annotations

import re

import numpy as np
import onnx
import pytest


@pytest.fixture
def nets(tmp_path):
    """Matrix products of three sizes with one interface."""
    found = {}
    for inner in (8, 512, 2048):
        random = np.random.default_rng(inner)
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[1,64] x) => (float[1,10] y) '
            "{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }"
        )
        for name, shape in (("a", (64, inner)), ("b", (inner, 10))):
            values = random.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        found[inner] = tmp_path / f"net{inner}.onnx"
        onnx.save(model, found[inner])
    return found


@pytest.fixture
def folder(lepton, nets, tmp_path):
    options = ["--target", "x86-64-v3", "--variants", "2", "--tuning", "model", "-o", tmp_path / "out"]
    assert lepton("compile", nets[512], *options).code == 0
    return tmp_path / "out"


def test_inspect_lists_variants(lepton, folder):
    outcome = lepton("inspect", folder)
    assert "variants, the best first" in outcome.out
    assert re.search(r"^ +x86_64_v2 +\d+\.\d+ ", outcome.out, re.MULTILINE)


@pytest.mark.parametrize("command", ["run", "bench"])
def test_run_and_bench_say_which_variant_is_taken(lepton, folder, command):
    outcome = lepton(command, folder, "--adapt", "latency=1s,memory=1GB", "--threads", "1")
    assert outcome.code == 0, outcome.err
    assert "variant x86_64_v3" in outcome.out and "limits" not in outcome.out
    outcome = lepton(command, folder, "--adapt", "memory=1B", "--threads", "1")
    assert outcome.code == 0, outcome.err
    assert "variant x86_64_v" in outcome.out and "limits" in outcome.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=0ms", "latency has to be above 0"),
        ("memory=0.4B", "memory has to be above 0"),
        ("size=1MB", "'size' is none of latency and memory"),
        ("latency=5", "must be a number and its unit"),
    ],
)
def test_limits_that_are_none_are_refused(lepton, folder, text, message):
    outcome = lepton("run", folder, "--adapt", text)
    assert outcome.code == 2
    assert message in outcome.err and outcome.err.count("\n") == 1


def test_limits_need_variants(lepton, nets, tmp_path):
    options = ["--target", "x86-64-v3", "--tuning", "model", "-o", tmp_path / "one"]
    assert lepton("compile", nets[8], *options).code == 0
    outcome = lepton("run", tmp_path / "one", "--adapt", "latency=1ms")
    assert outcome.code == 2
    assert "holds no variants" in outcome.err


def test_a_budget_of_nothing_is_wrong_input(lepton, nets, tmp_path):
    outcome = lepton("compile", nets[8], "-o", tmp_path / "out", "--budget", "latency=0ms")
    assert outcome.code == 2
    assert "latency has to be above 0" in outcome.err


def test_of_a_family_the_largest_that_fits_is_compiled(lepton, nets, tmp_path):
    options = ["--target", "x86-64-v3", "--tuning", "model", "--budget", "size=400KB", "-o", tmp_path / "out"]
    outcome = lepton("compile", *nets.values(), *options[:-2])
    assert outcome.code == 2 and "say where to write it (-o)" in outcome.err
    outcome = lepton("compile", *nets.values(), *options)
    assert outcome.code == 0, outcome.err
    assert "net2048 does not fit: " in outcome.out
    assert "net512 for x86-64-v3" in lepton("inspect", tmp_path / "out").out
