"""Wrong input gets one clear line on stderr, exit code 2 and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import lepton_compile
from lepton_compile.errors import BudgetError, BuildError


def assert_one_line(outcome, code: int, *parts: str) -> None:
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0]


def compile_arguments(model: Path, folder: Path, *more: str) -> list[str | Path]:
    return ["compile", model, "-o", folder, "--target", "x86-64-v3", *more]


def test_missing_file(lepton, tmp_path):
    missing = tmp_path / "missing.onnx"
    assert_one_line(lepton(*compile_arguments(missing, tmp_path / "out")), 2, str(missing))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x07\x12\xff"])
def test_not_onnx(lepton, tmp_path, content):
    model = tmp_path / "not.onnx"
    model.write_bytes(content)
    assert_one_line(lepton(*compile_arguments(model, tmp_path / "out")), 2, str(model))


def test_truncated_model(lepton, small_model, tmp_path):
    small_model.write_bytes(small_model.read_bytes()[:-20])
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out")), 2, str(small_model))


def test_a_failed_compile_leaves_the_folder_as_it_was(lepton, small_model, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "manifest.json").write_text("precious")
    assert lepton(*compile_arguments(small_model, folder)).code == 2
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("manifest.json", "precious")]


def test_unknown_target_gets_the_nearest_names(lepton, small_model):
    outcome = lepton("compile", small_model, "--target", "rasberry-pi-4")
    assert_one_line(outcome, 2, "rasberry-pi-4", "raspberry-pi-4")


def test_unbound_dimension_is_named_with_how_to_bind_it(lepton, small_model, tmp_path):
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out")), 2, "'x'", "batch", "--shape")


@pytest.mark.parametrize("text", ["x", "x=", "x=1,a", "x=1,-2", "=1,7", "x=1,,7", "x=1.5,7"])
def test_shapes_that_are_none(lepton, small_model, tmp_path, text):
    outcome = lepton(*compile_arguments(small_model, tmp_path / "out", "--shape", text))
    assert_one_line(outcome, 2)


def test_a_shape_given_twice(lepton, small_model, tmp_path):
    twice = ["--shape", "x=1,7", "--shape", "x=2,7"]
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", *twice)), 2, "'x' is given twice")


def test_a_shape_for_an_input_that_is_not_there(lepton, small_model, tmp_path):
    wrong = ["--shape", "x=1,7", "--shape", "images=1,7"]
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", *wrong)), 2, "images")


def test_a_shape_that_contradicts_the_model(lepton, small_model, tmp_path):
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", "--shape", "x=1,8")), 2, "'x'")


def test_unknown_operators_are_all_listed(lepton, tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7]) for name in "xy")
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first", domain="com.example"),
        helper.make_node("Defenestrate", ["a"], ["y"], name="second", domain="com.example"),
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "unknown.onnx")
    outcome = lepton(*compile_arguments(tmp_path / "unknown.onnx", tmp_path / "out"))
    assert_one_line(outcome, 2, "Frobnicate", "first", "Defenestrate", "second", "com.example")


def test_unknown_pass(lepton, small_model, tmp_path):
    wrong = ["--shape", "x=1,7", "--passes", "dead_node"]
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", *wrong)), 2, "dead_node")


def test_unreadable_plan(lepton, small_model, tmp_path):
    missing = ["--shape", "x=1,7", "--plan", str(tmp_path / "plan.json")]
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", *missing)), 2, "plan.json")


def test_a_plan_that_is_none(lepton, small_model, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    wrong = ["--shape", "x=1,7", "--plan", str(tmp_path / "plan.json")]
    assert_one_line(lepton(*compile_arguments(small_model, tmp_path / "out", *wrong)), 2)


def test_unwritable_output(lepton, small_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "out"
    assert_one_line(lepton(*compile_arguments(small_model, folder, "--shape", "x=1,7")), 2, str(tmp_path / "file"))


def test_running_what_is_no_artefact(lepton, tmp_path):
    assert_one_line(lepton("run", tmp_path), 2, str(tmp_path))
    assert_one_line(lepton("run", tmp_path / "missing"), 2, str(tmp_path / "missing"))


def test_inspecting_what_is_neither(lepton, tmp_path):
    assert_one_line(lepton("inspect", tmp_path), 2, str(tmp_path))
    assert_one_line(lepton("inspect", tmp_path / "missing"), 2, str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "arguments", [["compyle"], ["compile"], ["compile", "a.onnx", "--nonsense"], ["targets", "sho"]]
)
def test_usage_errors(lepton, arguments):
    assert_one_line(lepton(*arguments), 2)


def test_a_missed_budget_exits_3(lepton, monkeypatch, small_model):
    monkeypatch.setitem(vars(lepton_compile), "compile", raises(BudgetError("the fastest takes 9 ms, not 5 ms")))
    assert_one_line(lepton("compile", small_model), 3, "9 ms")


def test_our_own_faults_exit_1_and_hint_at_the_traceback(lepton, monkeypatch, small_model):
    for error in (BuildError("the linker failed"), ZeroDivisionError("division by zero")):
        monkeypatch.setitem(vars(lepton_compile), "compile", raises(error))
        assert_one_line(lepton("compile", small_model), 1, str(error), "--debug")
        debugged = lepton("--debug", "compile", small_model)
        assert debugged.code == 1
        assert "Traceback" in debugged.err


def raises(error: Exception):
    def function(*arguments: object, **options: object) -> None:
        raise error

    return function


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["targets"]])
def test_start_up_imports_neither_tvm_nor_onnx(arguments):
    code = (
        "import sys; from lepton_compile.cli.main import main\n"
        f"try: main({arguments})\n"
        "finally: print(sorted({'tvm', 'onnx', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip()) == (0, "[]")
