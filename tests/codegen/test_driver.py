"""The generated C: its text, its names, branches, symbolic dimensions, views, and outputs in either memory."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from lepton_compile.codegen import TracedStep, Variant, generate, trace
from lepton_compile.codegen.building import kernel_tasks
from lepton_compile.codegen.driver import Driver, Facts
from lepton_compile.codegen.interface import header, make_interface
from lepton_compile.codegen.names import identifier, string_literal, unique_identifiers
from lepton_compile.codegen.parts import Part
from lepton_compile.codegen.steps import describe_steps
from lepton_compile.codegen.weights import write_weights
from lepton_compile.errors import BuildError, LeptonError
from lepton_compile.lowering.program import Buffer, Call, If, MemoryPlan, Program, Storage
from lepton_compile.runtime.loader import CompiledModel

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("columns", [48, "n"], ids=["static", "symbolic"])
def test_the_text_is_the_golden_one(columns: int | str, make_program, host, tmp_path: Path) -> None:
    """Set UPDATE_GOLDEN=1 to write the texts anew, and read the difference."""
    program = make_program(columns=columns)
    interface = make_interface(program)
    weights = write_weights([program.weights], io.BytesIO())
    _, (symbols,) = kernel_tasks([Variant("only", program, host)], tmp_path)
    part = Part(program, symbols, weights.offsets[0], ('{"dotprod", AT_HWCAP, 0x100000}',))
    facts = Facts("1.2.3", "my-board", "0123")
    texts = {
        f"{program.name}_{columns}.h": header(program, interface, description="Generated for a test."),
        f"{program.name}_{columns}.c": Driver([part], weights, facts).text(),
    }
    for name, text in texts.items():
        if os.environ.get("UPDATE_GOLDEN"):
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text(), name


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_names_become_distinct_identifiers(names: list[str]) -> None:
    fields = unique_identifiers(names)
    assert len(set(fields)) == len(names)
    assert all(field.isidentifier() and field.isascii() for field in fields)


def test_words_of_c_and_cpp_are_no_field_names() -> None:
    assert [identifier(name) for name in ("class", "int", "0:x", "", "a//b")] == [
        "class_",
        "int_",
        "t0_x",
        "tensor",
        "a_b",
    ]


def test_strings_survive_the_compiler() -> None:
    assert string_literal('a"b\\c\n\u00e9') == '"a\\042b\\134c\\012\\303\\251"'


def run(program: Program, target, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    library = generate(program, target)
    return CompiledModel(library.folder, keep=library).run(inputs)


def test_a_symbolic_dimension_travels_with_the_inputs(make_program, host) -> None:
    rows = 8
    program = make_program(columns="n")
    library = generate(program, host)
    model = CompiledModel(library.folder, keep=library)
    for n in (5, 64, 1000):
        x = np.random.default_rng(n).standard_normal((rows, n), dtype=np.float32)
        weight = np.asarray(program.weights["w"]).reshape(-1)[: rows * n].reshape(rows, n)
        np.testing.assert_allclose(model.run({"images:0": x})["class"], x * 2 + weight + x, rtol=1e-6)


def test_a_branch_is_taken_by_its_condition(make_map_kernel, host) -> None:
    shape = (4, 16)
    buffers = {
        "c": Buffer("c", (), "bool", storage=Storage.INPUT, tensor="c"),
        "x": Buffer("x", shape, "float32", storage=Storage.INPUT, tensor="x"),
        "y": Buffer("y", shape, "float32", storage=Storage.OUTPUT, tensor="y"),
    }
    one = tirx.const(1, "float32")
    program = Program(
        "branch",
        (buffers["c"], buffers["x"]),
        (buffers["y"],),
        buffers,
        {},
        {
            "up": make_map_kernel("up", lambda a: a + one, *shape),
            "down": make_map_kernel("down", lambda a: a - one, *shape),
        },
        (If("c", (Call("up", ("x", "y"), ("up",)),), (Call("down", ("x", "y"), ("down",)),), "if_1"),),
        MemoryPlan({"y": 0}, 256),
    )
    x = np.arange(64, dtype=np.float32).reshape(shape)
    library = generate(program, host)
    model = CompiledModel(library.folder, keep=library)
    for condition, expected in ((True, x + 1), (False, x - 1)):
        np.testing.assert_array_equal(model.run({"c": np.array(condition), "x": x})["y"], expected)
        steps: list[TracedStep] = []
        trace(library, {"c": np.array(condition), "x": x}, steps.append)
        assert [(step.number, step.call.nodes) for step in steps] == [(0, ("up",)) if condition else (1, ("down",))]


def test_views_share_memory_and_an_output_may_be_one(make_map_kernel, host) -> None:
    """x -> t (arena); its view v is read by the next step; the outputs are t's view, y and the input itself."""
    shape, flat = (4, 16), (64,)
    buffers = {
        "x": Buffer("x", shape, "float32", storage=Storage.INPUT, tensor="x"),
        "t": Buffer("t", shape, "float32"),
        "v": Buffer("v", flat, "float32", view_of="t"),
        "y": Buffer("y", shape, "float32", storage=Storage.OUTPUT, tensor="y"),
        "flat": Buffer("flat", flat, "float32", storage=Storage.OUTPUT, tensor="flat", view_of="v"),
        "same": Buffer("same", shape, "float32", storage=Storage.OUTPUT, tensor="same", view_of="x"),
    }
    double = make_map_kernel("double", lambda a: a + a, *shape)
    program = Program(
        "views",
        (buffers["x"],),
        (buffers["y"], buffers["flat"], buffers["same"]),
        buffers,
        {},
        {"double": double},
        (Call("double", ("x", "t"), ("a",)), Call("double", ("v", "y"), ("b",))),
        MemoryPlan({"t": 0, "y": 256, "flat": 512, "same": 768}, 1024),
    )
    x = np.arange(64, dtype=np.float32).reshape(shape)
    results = run(program, host, x=x)
    np.testing.assert_array_equal(results["y"], 4 * x)
    np.testing.assert_array_equal(results["flat"], (2 * x).reshape(-1))
    np.testing.assert_array_equal(results["same"], x)


def test_a_view_may_be_a_part(make_map_kernel, host) -> None:
    """The halves of y are doubled halves of x, the second by way of a half of t; z is the double of a half of w."""
    whole, half = (8, 16), (4, 16)

    def part(name: str, owner: str, storage: Storage, number: int) -> Buffer:
        return Buffer(name, half, "float32", storage=storage, view_of=owner, offset=256 * number)

    buffers = [
        Buffer("x", whole, "float32", storage=Storage.INPUT, tensor="x"),
        Buffer("w", whole, "float32", storage=Storage.WEIGHT),
        Buffer("t", whole, "float32"),
        Buffer("y", whole, "float32", storage=Storage.OUTPUT, tensor="y"),
        Buffer("z", half, "float32", storage=Storage.OUTPUT, tensor="z"),
        *(part(f"x{number}", "x", Storage.INPUT, number) for number in range(2)),
        *(part(f"y{number}", "y", Storage.OUTPUT, number) for number in range(2)),
        part("w1", "w", Storage.WEIGHT, 1),
        part("t1", "t", Storage.ARENA, 1),
        Buffer("t1_again", half, "float32", view_of="t1"),
    ]
    named = {buffer.name: buffer for buffer in buffers}
    pairs = (("x0", "y0"), ("x1", "t1"), ("t1_again", "y1"), ("w1", "z"))
    w = np.arange(128, dtype=np.float32).reshape(whole)
    program = Program(
        "parts",
        (named["x"],),
        (named["y"], named["z"]),
        named,
        {"w": w},
        {"double": make_map_kernel("double", lambda a: a + a, *half)},
        tuple(Call("double", pair, ("n",)) for pair in pairs),
        MemoryPlan({"t": 0, "y": 512, "z": 1024}, 1280),
    )
    x = np.arange(128, dtype=np.float32).reshape(whole)
    results = run(program, host, x=x)
    np.testing.assert_array_equal(results["y"], np.concatenate([2 * x[:4], 4 * x[4:]]))
    np.testing.assert_array_equal(results["z"], 2 * w[4:])


def test_an_arena_too_large_for_the_machine_is_refused_with_its_size(make_program, host) -> None:
    program = make_program()
    large = replace(program, memory=MemoryPlan(program.memory.offsets, 1 << 60))
    with pytest.raises(LeptonError, match=f"no memory for an arena of {1 << 60} bytes; beside it, the weights take"):
        run(large, host, **{"images:0": np.zeros((8, 48), np.float32)})


def test_a_kernel_may_work_in_place(make_map_kernel, host) -> None:
    shape = (4, 16)
    buffers = {
        "x": Buffer("x", shape, "float32", storage=Storage.INPUT, tensor="x"),
        "t": Buffer("t", shape, "float32"),
        "u": Buffer("u", shape, "float32"),
        "y": Buffer("y", shape, "float32", storage=Storage.OUTPUT, tensor="y"),
    }
    program = Program(
        "in_place",
        (buffers["x"],),
        (buffers["y"],),
        buffers,
        {},
        {"double": make_map_kernel("double", lambda a: a + a, *shape)},
        tuple(Call("double", pair, ("n",)) for pair in (("x", "t"), ("t", "u"), ("u", "y"))),
        MemoryPlan({"t": 0, "u": 0, "y": 256}, 512),
    )
    x = np.arange(64, dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(run(program, host, x=x)["y"], 8 * x)


def test_a_trace_shows_every_buffer_and_raises_what_the_visitor_raises(make_program, host) -> None:
    program = make_program()
    library = generate(program, host)
    x = np.random.default_rng(0).standard_normal((8, 48), dtype=np.float32)
    steps = []
    outputs = trace(
        library,
        {"images:0": x},
        lambda step: steps.append((step.call, step.nanoseconds, {k: v.copy() for k, v in step.arrays.items()})),
        threads=2,
    )
    assert [call for call, _, _ in steps] == list(program.calls())
    assert all(0 < nanoseconds < 10**9 for _, nanoseconds, _ in steps)
    np.testing.assert_array_equal(steps[0][2]["t"], x * 2 + program.weights["w"])
    np.testing.assert_array_equal(steps[1][2]["y"], outputs["class"])

    def stop(_step: object) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        trace(library, {"images:0": x}, stop)


def test_the_generated_c_is_free_of_warnings_in_cpp_too(tmp_path: Path, make_program, host) -> None:
    library = generate(make_program(), host)
    (tmp_path / "use.cc").write_text('#include "toy.h"\nint main() { return toy_info()->input_count - 1; }\n')
    compilers = [[path] for path in (shutil.which("c++"),) if path] + [[sys.executable, "-m", "ziglang", "cc"]]
    for compiler in compilers:
        flags = ["-xc++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{library.folder}"]
        subprocess.run([*compiler, *flags, "-c", "use.cc", "-o", "use.o"], cwd=tmp_path, check=True)


def test_equal_weights_are_stored_once_and_all_are_aligned() -> None:
    a = np.arange(10, dtype=np.float32)
    programs = [{"a": a, "b": np.ones(3, np.int8), "c": a.copy()}, {"a": np.float64(2.0) * np.ones(()), "s": a}]
    table = write_weights(programs, io.BytesIO())
    assert table.offsets[0]["a"] == table.offsets[0]["c"] == table.offsets[1]["s"]
    assert all(offset % 64 == 0 for offsets in table.offsets for offset in offsets.values())
    assert (table.nbytes, table.reads) == (192, (43, 48))
    other = write_weights([{"a": a + 1}], io.BytesIO())
    assert other.digest != table.digest


def test_a_call_with_the_wrong_number_of_arguments_is_refused(make_program, host) -> None:
    program = make_program()
    wrong = replace(program, steps=(Call("add", ("x", "y"), ("n",)),))
    with pytest.raises(BuildError, match="2 arguments, not 3"):
        generate(wrong, host)


def test_a_profile_in_c_is_told_every_step(tmp_path: Path, make_program, host) -> None:
    library = generate(make_program(), host)
    (tmp_path / "use.c").write_text(
        """\
#include <stdio.h>
#include "toy.h"
static void told(void *context, int32_t step, int64_t nanoseconds) {
  printf("%s %d %d\\n", (const char *)context, step, nanoseconds > 0 && nanoseconds < 1000000000);
}
int main(void) {
  static float image[8 * 48];
  toy_instance *model = NULL;
  toy_inputs inputs = {.images_0 = image};
  toy_outputs outputs = {0};
  toy_set_profile(NULL, told, NULL);
  if (toy_create(NULL, &model) != TOY_OK) return 1;
  toy_set_profile(model, told, "first");
  if (toy_run(model, &inputs, &outputs) != TOY_OK) return 2;
  toy_set_profile(model, NULL, NULL);
  if (toy_run(model, &inputs, &outputs) != TOY_OK) return 3;
  toy_destroy(model);
  return 0;
}
"""
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{library.folder}", f"-L{library.folder}"]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "use.c", "-ltoy", f"-Wl,-rpath,{library.folder}"]
    subprocess.run([*command, "-o", "use"], cwd=tmp_path, check=True)
    told = subprocess.run([tmp_path / "use"], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["first 0 1", "first 1 1"]


def test_a_step_that_gathers_moves_what_it_takes(make_program) -> None:
    program = make_program(rows=8)
    table = Buffer("w", (1000, 48), "float32", storage=Storage.WEIGHT, tensor="weight")
    gather = replace(program.kernels["scale_add"], family="elementwise")
    gathering = replace(
        program, buffers={**program.buffers, "w": table}, kernels={**program.kernels, "scale_add": gather}
    )
    first = describe_steps(gathering)[0]
    assert [operand["moved_bytes"] for operand in first["inputs"]] == [1536, 1536]
    assert first["inputs"][1]["bytes"] == 192_000
    symbolic = describe_steps(make_program(columns="n"))
    assert symbolic[0]["inputs"][0]["bytes"] is symbolic[0]["inputs"][0]["moved_bytes"] is None
