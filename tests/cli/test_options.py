from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import lepton_compile
from lepton_compile.cli.options import read_pairs, read_passes, read_shapes
from lepton_compile.cli.table import format_shape
from lepton_compile.reporting.quantities import format_bytes


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("x=1,3,224,224", {"x": (1, 3, 224, 224)}),
        ("x=1x3x224x224", {"x": (1, 3, 224, 224)}),
        ("input:0=7", {"input:0": (7,)}),
        ("a=b=2,3", {"a=b": (2, 3)}),
        ("empty=0,4", {"empty": (0, 4)}),
    ],
)
def test_shapes(text, shape):
    assert read_shapes([text]) == shape


def test_no_shapes():
    assert read_shapes(None) is None
    assert read_shapes([]) is None


def test_pairs_keep_what_follows_the_last_equals_sign():
    assert read_pairs("--input", ["x=a.npy", "k=v=b.npy"]) == {"x": "a.npy", "k=v": "b.npy"}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (None, None),
        ("", []),
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ('a{x=1, y="p"},b{z=[1, 2]}, c', ['a{x=1, y="p"}', "b{z=[1, 2]}", "c"]),
    ],
)
def test_passes_part_at_commas_outside_of_settings(text, passes):
    assert read_passes(text) == passes


def test_sizes_for_people():
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 20, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]
    shapes = [(), (1, "batch", None), ("floor(height/2 - 1/2)" * 3,), None]
    assert [format_shape(shape) for shape in shapes] == ["[]", "[1, batch, ?]", "[?]", "of unknown rank"]


def test_compile_hands_its_options_on(lepton, monkeypatch, tmp_path):
    given = {}

    def compile(model: Path, target: str, **options: object) -> SimpleNamespace:
        given.update(options, model=model, target=target)
        lossy = {"pass": "quantization", "exact": False, "reason": "2 of 3 layers"}
        manifest = {"notes": ["a branch gives NaN"], "passes": [lossy, {"pass": "gelu", "exact": True, "reason": "1"}]}
        return SimpleNamespace(save=lambda folder: Path(folder).mkdir(), manifest=manifest, plan=None)

    monkeypatch.setitem(vars(lepton_compile), "compile", compile)
    options = [
        "--target",
        "my.toml",
        "--shape",
        "x=1,7",
        "--passes",
        "a,b{c=1}",
        "--verify",
        "--budget",
        "latency=5ms,size=4MB,memory=64 MiB,drop=0.5%",
        "--calibration",
        "data.npz",
        "--metric",
        "top1",
        "--key",
        "mine",
        "--search",
        "10m",
        "--variants",
        "3",
        "--exact-order",
        "--tuning",
        "model",
        "--dump",
        "steps",
        "--name",
        "net",
    ]
    outcome = lepton("compile", "m.onnx", "-o", tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    assert outcome.err == "note: a branch gives NaN\n"
    assert outcome.out.startswith("quantization: 2 of 3 layers\nwrote")
    del given["progress"]
    assert given == {
        "model": Path("m.onnx"),
        "target": "my.toml",
        "shapes": {"x": (1, 7)},
        "passes": ["a", "b{c=1}"],
        "plan": None,
        "verify": True,
        "budget": lepton_compile.Budget(size_bytes=4_000_000, memory_bytes=64 << 20, latency_s=0.005, max_drop=0.005),
        "calibration": Path("data.npz"),
        "metric": "top1",
        "key": "mine",
        "search": 600.0,
        "variants": 3,
        "exact_order": True,
        "tuning": "model",
        "dump": Path("steps"),
        "name": "net",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("speed=5ms", "'speed' is none of latency, size, memory and drop"),
        ("latency=5MB", "latency must be a number and its unit"),
        ("size", "not of the form NAME=VALUE"),
        ("size=4", "size must be a number and its unit"),
        ("size=-4MB", "must not be negative"),
    ],
)
def test_budgets_that_make_no_sense(lepton, small_model, text, told):
    outcome = lepton("compile", small_model, "--shape", "x=2,7", "--budget", text)
    assert outcome.code == 2
    assert told in outcome.err


def test_a_budget_that_cannot_be_met_is_told_apart(lepton, small_model, tmp_path):
    folder = tmp_path / "out"
    outcome = lepton("compile", small_model, "--shape", "x=2,7", "--budget", "size=1kB", "-o", folder)
    assert outcome.code == 3
    assert "the budget for its size is 1000" in outcome.err
    assert not folder.exists()
