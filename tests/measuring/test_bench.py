"""The benchmark of a compiled model: engines, inputs, profile, page, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_compile
from lepton_compile import LeptonError, ShapeError, TargetError
from lepton_compile.measuring import bench as benching
from lepton_compile.measuring import peers
from lepton_compile.measuring.bench import OURS, Benchmark, bench
from lepton_compile.measuring.inputs import probe_values, random_values
from lepton_compile.measuring.page import page
from lepton_compile.measuring.roofline import Roofline
from lepton_compile.measuring.tables import engine_rows, family_rows, markdown, step_rows
from lepton_compile.runtime.loader import Tensor


@pytest.fixture(scope="module")
def measured(folder: Path, model_file: Path) -> Benchmark:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benching, "measure_roofline", lambda target, threads: Roofline(1e12, {1 << 18: 1e12}))
        return bench(folder, threads=1, against=["onnxruntime"], model=model_file, seconds=0, profile=True)


def test_engines_are_measured_and_agree(measured: Benchmark) -> None:
    assert set(measured.engines) == {OURS, "onnxruntime"}
    assert all(engine.counts for engine in measured.engines.values())
    assert measured.random_inputs == ("ids",)
    assert (measured.name, measured.target, measured.threads) == ("small", "host", 1)
    assert measured.processor


def test_every_step_is_timed(measured: Benchmark, folder: Path) -> None:
    steps = lepton_compile.load(folder).steps
    assert [step.kernel for step in measured.steps] == [step["kernel"] for step in steps]
    assert all(0 < step.seconds < 1 for step in measured.steps)
    assert any("<matmul>" in step.label for step in measured.steps)
    assert sum(family.calls for family in measured.families) == len(steps)


def test_it_is_json(measured: Benchmark) -> None:
    value = json.loads(json.dumps(measured.to_json()))
    assert value["engines"][OURS]["latency"]["minimum"] <= value["engines"][OURS]["latency"]["median"]
    assert value["steps"][0]["share_of_peak"] == pytest.approx(measured.steps[0].share_of_peak)
    assert {family["label"] for family in value["families"]} == {step.family for step in measured.steps}


def test_tables_have_a_cell_for_every_heading(measured: Benchmark) -> None:
    for benchmark in (measured, replace(measured, roofline=None)):
        for header, rows in (engine_rows(benchmark), family_rows(benchmark), step_rows(benchmark)):
            assert rows and all(len(row) == len(header) for row in rows)
    header, rows = engine_rows(measured)
    assert [row[0] for row in rows] == [OURS, "onnxruntime"]
    assert float(rows[1][header.index("times ours")]) > 0
    assert "of peak" not in family_rows(replace(measured, roofline=None))[0]
    assert family_rows(measured)[1][-1][0] == "all steps"
    assert markdown(("a", "b"), [("1|2", "3")]).splitlines() == ["| a | b |", "| --- | --- |", "| 1\\|2 | 3 |"]


def test_an_engine_that_fails_has_an_empty_row(measured: Benchmark) -> None:
    engines = {**measured.engines, "openvino": replace(measured.engines[OURS], latency=None, problem="fails: why")}
    assert engine_rows(replace(measured, engines=engines))[1][-1] == ("openvino", "", "", "", "", "")


def test_the_page_stands_alone(measured: Benchmark) -> None:
    text = page(replace(measured, note="a < b"))
    assert not re.search(r"(src|href|url)\s*[=(]|https?:", text)
    assert "&lt;matmul&gt;" in text and "<matmul>" not in text and "a &lt; b" in text
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    bars = ElementTree.fromstring(svg).findall("rect")
    assert len(bars) == len(measured.steps)
    assert sum(float(bar.attrib["width"]) for bar in bars) == pytest.approx(1040, abs=1)
    assert "<rect" not in page(replace(measured, steps=()))


def test_inputs_may_be_given(folder: Path) -> None:
    ids = np.arange(12).reshape(1, 12) % 5
    result = bench(folder, inputs={"ids": ids}, seconds=0)
    assert result.random_inputs == () and result.steps == () and list(result.engines) == [OURS]
    with pytest.raises(ShapeError, match="has no input 'idz'"):
        bench(folder, inputs={"idz": ids}, seconds=0)
    with pytest.raises(ShapeError, match="has shape"):
        bench(folder, inputs={"ids": ids[:, :3]}, seconds=0)


def test_more_threads_than_processors_are_as_many_as_these(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "processors", lambda: 1)
    assert bench(folder, threads=64, seconds=0).threads == 1
    assert bench(folder, seconds=0).threads == 1


def test_what_can_not_be_measured_is_one_line(folder: Path, model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(model_file.read_bytes() + b"\x00")
    for arguments, message in (
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"seconds": -1.0}, "seconds is -1; it must be a number of at least 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        (
            {"against": ["torch"]},
            "there is no engine 'torch' to measure against; there are onnxruntime, openvino, ncnn",
        ),
        ({"against": ["onnxruntime"]}, "onnxruntime can only run the ONNX file that .* say which it is"),
        ({"against": ["onnxruntime"], "model": other}, "other.onnx is not the model that .* was compiled from"),
        ({"model": tmp_path / "missing.onnx"}, "missing.onnx can not be read: No such file"),
    ):
        with pytest.raises(LeptonError, match=message) as caught:
            bench(folder, **{"seconds": 0.0, **arguments})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "requirement"),
    [("onnxruntime", "onnxruntime"), ("openvino", "openvino"), ("ncnn", "ncnn pnnx")],
)
def test_an_engine_that_is_not_installed_names_what_pip_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str, requirement: str
) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LeptonError, match=f"^{engine} is not installed: pip install {requirement}$"):
        bench(folder, against=[engine], seconds=0)


@pytest.mark.parametrize("engine", ["openvino", "ncnn"])
def test_other_engines_that_are_installed_run(folder: Path, model_file: Path, engine: str) -> None:
    if not peers.is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    ids = np.arange(12).reshape(1, 12) % 5
    result = bench(folder, threads=1, inputs={"ids": ids}, against=[engine], model=model_file, seconds=0)
    # ncnn's converter feeds models integers of its own, which reach out of this one's table.
    assert result.engines[engine].counts or engine == "ncnn"
    assert result.engines[OURS].counts


def test_without_the_compiler_there_is_no_peak(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(benching.importlib.util, "find_spec", lambda name: None if name == "tvm" else found(name))
    result = bench(folder, inputs={"ids": np.zeros((1, 12), np.int64)}, seconds=0, profile=True)
    assert result.roofline is None and "TVM is not installed" in result.note
    assert result.steps and result.steps[0].share_of_peak is None
    assert "the fastest step" in page(result)


def test_measuring_needs_numpy_alone(folder: Path) -> None:
    """A device without the compiler measures a folder, and profiles it, too."""
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in {*sys.stdlib_module_names, 'numpy', 'lepton_compile'}:\n"
        "            raise ImportError(f'{name} is not there on a device')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from lepton_compile.measuring.page import page\n"
        "import lepton_compile\n"
        f"result = lepton_compile.bench({str(folder)!r}, seconds=0, profile=True)\n"
        "print(len(result.steps) > 0, result.roofline, len(page(result)) > 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "None", "True"]


def test_random_values_suit_types_and_shapes() -> None:
    tensors = [Tensor("a", "float32", (2, "n")), Tensor("b", "int64", ()), Tensor("c", "bool", (3,))]
    values = random_values(tensors)
    assert [(value.dtype.name, value.shape) for value in values.values()] == [
        ("float32", (2, 1)),
        ("int64", ()),
        ("bool", (3,)),
    ]
    assert all(np.array_equal(values[name], again) for name, again in random_values(tensors).items())


def test_probe_values_stay_inside_of_what_they_index(model_file: Path) -> None:
    values = probe_values(model_file, [Tensor("ids", "int64", (1, 12))])
    assert values["ids"].shape == (1, 12) and set(values["ids"].ravel().tolist()) <= set(range(5))
    assert values["ids"].max() > 1


def test_a_folder_without_steps_is_measured_but_not_profiled(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "old.lepton")
    (copy / "steps.json").unlink()
    ids = {"ids": np.zeros((1, 12), np.int64)}
    assert bench(copy, inputs=ids, seconds=0).engines[OURS].counts
    with pytest.raises(LeptonError, match="compiled without profiles: compile it anew"):
        bench(copy, inputs=ids, seconds=0, profile=True)


def test_values_and_machines_that_the_library_refuses_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match="can not be run"):
        bench(folder, inputs={"ids": np.full((1, 12), 99)}, seconds=0)
    copy = shutil.copytree(folder, tmp_path / "foreign.lepton")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"triple": "mips64-linux-gnu"}))
    with pytest.raises(TargetError, match="compiled for mips64-linux-gnu"):
        bench(copy, seconds=0)
