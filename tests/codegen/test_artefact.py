"""The folder: what is in it, what the library needs, how it is written, and that it is the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from codegen.objects import SYSTEM, exported, glibc_versions, needed, section_flags, segments

from lepton_compile.codegen import Library, generate
from lepton_compile.codegen.linking import compiler_command, host_architecture
from lepton_compile.errors import BuildError, LeptonError, TargetError
from lepton_compile.runtime.loader import CompiledModel, load
from lepton_compile.target import resolve_target

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="module")
def library(make_program, host) -> Library:
    return generate(make_program(), host, model_hash="ab12", plan={"steps": []})


def output(*command: str, **options: object) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout  # type: ignore[call-overload]


def test_the_folder_is_complete(library: Library) -> None:
    assert sorted(path.name for path in library.folder.iterdir()) == [
        "libtoy.so",
        "manifest.json",
        "plan.json",
        "report.html",
        "steps.json",
        "toy.c",
        "toy.h",
    ]
    manifest = json.loads((library.folder / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(library.manifest))
    assert manifest["library"]["sha256"] == hashlib.sha256(library.path.read_bytes()).hexdigest()
    assert manifest["model"]["sha256"] == "ab12"
    assert manifest["inputs"] == [{"name": "images:0", "dtype": "float32", "shape": [8, 48]}]
    assert manifest["memory"]["arena_bytes"] == 3072
    steps = json.loads((library.folder / "steps.json").read_text())["steps"]
    assert [(step["number"], step["family"], step["nodes"]) for step in steps] == [
        (0, "map", ["Mul_1", "Add_2"]),
        (1, "map", ["Add_3"]),
    ]
    assert [step["blocks"] for step in steps] == [8, 1]  # the second is not worth splitting
    hidden = {"tensor": "hidden", "dtype": "float32", "shape": [8, 48], "layout": "plain", "storage": "arena"}
    assert steps[0]["outputs"] == [hidden | {"bytes": 1536, "moved_bytes": 1536}] == steps[1]["inputs"][:1]
    assert set(manifest["versions"]) == {"lepton_compile", "tvm", "onnx", "llvm"}


def test_the_library_needs_the_c_library_alone(library: Library) -> None:
    assert "libc.so.6" in needed(library.path)
    assert needed(library.path) <= SYSTEM


def test_a_library_for_other_machines_takes_an_old_c_library(make_program) -> None:
    library = generate(make_program(), resolve_target("x86-64-v2"))
    assert max(glibc_versions(library.path)) <= (2, 17)


def test_only_the_interface_is_exported(library: Library) -> None:
    assert exported(library.path) == [
        "toy_create",
        "toy_destroy",
        "toy_error",
        "toy_info",
        "toy_run",
        "toy_set_profile",
    ]
    assert b"/tmp" not in library.path.read_bytes()


@pytest.mark.skipif(host_architecture() != "x86_64", reason="other processors' code reaches further")
def test_weights_may_be_larger_than_what_code_reaches(library: Library) -> None:
    """They lie in a section of the large code model (SHF_X86_64_LARGE), so that none of the others is far from code."""
    assert section_flags(library.path, ".lrodata") & 0x10000000


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "raspberry-pi-4", "riscv64"])
def test_weights_may_be_mapped_by_huge_pages(make_program, name: str) -> None:
    """Addresses are congruent to positions in the file, without filling the file up."""
    library = generate(make_program(), resolve_target(name))
    assert all((address - position) % (2 << 20) == 0 for position, address in segments(library.path))
    assert library.path.stat().st_size < 64 << 10


def test_the_same_program_gives_the_same_bytes(library: Library, make_program, host) -> None:
    again = generate(make_program(), host, model_hash="ab12", plan={"steps": []})
    assert again.folder != library.folder
    for path in library.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_zig_alone_is_enough(library: Library, make_program, host, monkeypatch, tmp_path: Path) -> None:
    """No compiler on the path, and a home that can not be written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    assert compiler_command(host.triple, host.triple)[0] == sys.executable
    built = generate(make_program(), host)
    x = np.ones((8, 48), np.float32)
    expected = load(library.folder).run({"images:0": x})["class"]
    np.testing.assert_array_equal(CompiledModel(built.folder).run({"images:0": x})["class"], expected)
    assert exported(built.path) == exported(library.path)
    assert needed(built.path) <= SYSTEM


def test_a_library_is_removed_with_its_value(make_program, host) -> None:
    library = generate(make_program(), host)
    folder = library.folder
    model = CompiledModel(folder, keep=library)
    del library
    assert folder.exists()
    del model
    assert not folder.exists()


def test_saving_replaces_a_compiled_model_and_nothing_else(library: Library, tmp_path: Path) -> None:
    library.save(tmp_path / "a.lepton")
    (tmp_path / "a.lepton" / "stale").write_text("")
    library.save(tmp_path / "a.lepton")
    assert not (tmp_path / "a.lepton" / "stale").exists()
    load(tmp_path / "a.lepton").save(tmp_path / "deep" / "b.lepton")
    assert load(tmp_path / "deep" / "b.lepton").manifest == library.manifest
    (tmp_path / "empty").mkdir()
    library.save(tmp_path / "empty")

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    with pytest.raises(LeptonError, match="holds other files"):
        library.save(tmp_path / "photos")
    (tmp_path / "file").write_text("text")
    with pytest.raises(LeptonError, match="is a file"):
        library.save(tmp_path / "file")
    with pytest.raises(LeptonError, match="can not be written"):
        library.save(tmp_path / "file" / "inside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lepton", "deep", "empty", "file", "photos"]


def test_a_failed_save_leaves_the_old_model(library: Library, tmp_path: Path, monkeypatch) -> None:
    library.save(tmp_path / "a.lepton")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a.lepton").iterdir()}

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(LeptonError, match="No space left on device"):
        library.save(tmp_path / "a.lepton")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a.lepton").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.lepton"]


def test_a_compiler_that_fails_is_reported_in_a_line(make_program, host, tmp_path: Path, monkeypatch) -> None:
    """A compiler that passes the probe and fails after it."""
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\ncase \"$*\" in *probe*) exit 0;; esac\necho 'ld: error: out of luck' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BuildError, match=r"compiling weights.S for .* failed: ld: error: out of luck"):
        generate(make_program(), host)


def test_the_examples_build_without_warnings_and_run(library: Library, make_program, host, tmp_path: Path) -> None:
    library.save(tmp_path / "toy.lepton")
    generate(make_program("other", rows=4, columns=32), host).save(tmp_path / "other.lepton")
    run_model = ["-DMODEL=toy", '-DMODEL_HEADER="toy.h"', "-Itoy.lepton", str(EXAMPLES / "run_model.c")]
    compiler = compiler_command(host.triple, host.zig_triple())
    output(*compiler, *STRICT, *run_model, "-Ltoy.lepton", "-ltoy", "-o", "run_model", cwd=tmp_path)
    environment = {**os.environ, "LD_LIBRARY_PATH": "toy.lepton:other.lepton"}
    lines = output("./run_model", "3", cwd=tmp_path, env=environment).splitlines()
    assert lines[0].startswith("toy for host")
    assert lines[1] == "class 0 1.03 2.06 3.09 4.12 5.15 6.18 7.21"
    two_models = ["-DFIRST=toy", '-DFIRST_HEADER="toy.h"', "-DSECOND=other", '-DSECOND_HEADER="other.h"']
    two_models += ["-Itoy.lepton", "-Iother.lepton", str(EXAMPLES / "two_models.c")]
    libraries = ["-Ltoy.lepton", "-ltoy", "-Lother.lepton", "-lother", "-lpthread"]
    output(*compiler, *STRICT, *two_models, *libraries, "-o", "two_models", cwd=tmp_path)
    assert output("./two_models", cwd=tmp_path, env=environment) == "200 runs of each model\n"


@pytest.mark.parametrize(("architecture", "cpu", "features"), [
    ("aarch64", "cortex-a53", ()),
    ("riscv64", "generic-rv64", ("+m", "+a", "+f", "+d", "+c")),
])  # fmt: skip
def test_foreign_libraries_run_under_an_emulator(
    make_program, make_target, tmp_path: Path, architecture: str, cpu: str, features: tuple[str, ...]
) -> None:
    emulator = shutil.which(f"qemu-{architecture}-static") or shutil.which(f"qemu-{architecture}")
    if architecture == host_architecture() or emulator is None:
        pytest.skip("needs qemu-user and a foreign architecture")
    triple = f"{architecture}-linux-gnu"
    library = generate(make_program(), make_target(triple, cpu, features), static=True)
    with pytest.raises(TargetError, match="this machine is"):
        load(library.folder).run({"images:0": np.zeros((8, 48), np.float32)})
    # The emulator has no C library of that machine, so the program is static, which zig does with musl.
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl", "-static"]
    flags = [*STRICT, "-DMODEL=toy", '-DMODEL_HEADER="toy.h"', f"-I{library.folder}", str(EXAMPLES / "run_model.c")]
    output(*compiler, *flags, str(library.folder / "libtoy.a"), "-o", "run_model", cwd=tmp_path)
    lines = output(emulator, "./run_model", "20", cwd=tmp_path).splitlines()
    assert lines[1] == "class 0 1.03 2.06 3.09 4.12 5.15 6.18 7.21"


def test_names_beyond_ascii_are_written_in_any_locale():
    program = """
import onnx, lepton_compile
model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) {y = Relu(x)}')
model.graph.node[0].output[0] = model.graph.output[0].name = "gr\\u00f6\\u00dfe"
compiled = lepton_compile.compile(model)
assert b"gr\\xc3\\xb6\\xc3\\x9fe" in (compiled.folder / "g.h").read_bytes()
"""
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", program], env=plain, check=True)
