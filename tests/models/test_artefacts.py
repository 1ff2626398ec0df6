"""The library of a compiled model needs nothing, is small, and is always the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import corpus
import onnx
import pytest

import lepton_compile

pytestmark = pytest.mark.models

ALLOWED = ("linux-vdso.so", "libc.so", "libm.so", "libpthread.so", "ld-linux", "/lib/ld-linux", "/lib64/ld-linux")


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed")
@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("name", corpus.NAMES)
def test_libraries_need_the_c_library_alone(name, target, compiled):
    (library,) = compiled(name, target).folder.glob("*.so")
    listed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    needed = [line.split()[0] for line in listed.splitlines()]
    assert any(name.startswith("libc.so") for name in needed)
    assert all(name.startswith(ALLOWED) for name in needed), needed


def test_a_library_is_hardly_larger_than_its_weights(compiled):
    """And in what convolutions by minimal filtering need more, which the manifest names."""
    model = compiled("nudenet", "host")
    (library,) = model.folder.glob("*.so")
    weights = sum(
        onnx.numpy_helper.to_array(value).nbytes for value in onnx.load(corpus.model_path("nudenet")).graph.initializer
    )
    filtered = [choice for choice in model.manifest["choices"] if choice["taken"].startswith("winograd")]
    grown = sum(choice["weights_bytes"] - choice["plain_weights_bytes"] for choice in filtered)
    assert filtered
    assert library.stat().st_size <= weights + grown + 512 * 1024


def test_a_budget_keeps_a_library_to_its_weights():
    weights = sum(
        onnx.numpy_helper.to_array(value).nbytes for value in onnx.load(corpus.model_path("nudenet")).graph.initializer
    )
    budget = lepton_compile.Budget(size_bytes=weights + 512 * 1024)
    model = lepton_compile.compile(corpus.model_path("nudenet"), shapes=corpus.shapes("nudenet"), budget=budget)
    (library,) = model.folder.glob("*.so")
    assert library.stat().st_size <= budget.size_bytes


@pytest.mark.parametrize("name", ["ppocr-rec", "nudenet", "silero"])
def test_compiling_twice_gives_the_same_bytes(name, tmp_path):
    """In two processes, in two folders, with other hash seeds: what order sets come in must not matter."""
    contents = [_compile(name, tmp_path / place, seed) for place, seed in (("one", "1"), ("two/deeper", "2"))]
    assert contents[0].keys() == contents[1].keys()
    assert [file for file in contents[0] if contents[0][file] != contents[1][file]] == []


def _compile(name: str, folder: Path, seed: str) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    shapes = [f"--shape={tensor}={','.join(map(str, shape))}" for tensor, shape in corpus.shapes(name).items() if shape]
    program = "from lepton_compile.cli.main import main; main()"
    command = [sys.executable, "-c", program, "compile", corpus.model_path(name), "-o", "model.lepton", *shapes]
    environment = os.environ | {"PYTHONHASHSEED": seed, "TMPDIR": str(folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in (folder / "model.lepton").iterdir()}
