"""Libraries for other machines, run under an emulator, give the same answers."""

import shutil
import subprocess
import sys
from pathlib import Path

import corpus
import numpy as np
import pytest
from corpus import meaning

from lepton_compile import import_model, resolve_target
from lepton_compile.codegen import Library, generate
from lepton_compile.codegen.linking import host_architecture
from lepton_compile.evaluation.compare import compare_outputs
from lepton_compile.lowering import lower
from lepton_compile.planning import adapt

pytestmark = pytest.mark.models


@pytest.mark.parametrize(
    ("name", "target"),
    [("ppocr-rec", "cortex-a72"), ("open-nsfw", "cortex-a72"), ("ppocr-cls", "riscv64"), ("silero", "riscv64")],
)
def test_foreign_libraries_give_the_same_answers(name, target, answers, tmp_path):
    emulator = _emulator(target)
    graph, machine = import_model(corpus.model_path(name), corpus.shapes(name)), resolve_target(target)
    adapted, _ = adapt(graph, machine)
    library = generate(lower(adapted, machine, "model"), machine, static=True)
    _build_program(library, machine.triple.split("-")[0], tmp_path)
    for label, feed in list(corpus.real_feeds(name).items())[:2]:
        actual = _run(library, feed, emulator, tmp_path)
        expected = answers(name, feed)
        assert compare_outputs(actual, expected) == [], label
        meaning.assert_same_meaning(name, actual, expected, feed)


def _emulator(target: str) -> list[str]:
    """What runs a program for the target."""
    architecture = resolve_target(target).triple.split("-")[0]
    if architecture == host_architecture():
        return []
    for name in (f"qemu-{architecture}-static", f"qemu-{architecture}"):
        if program := shutil.which(name):
            return [program]
    pytest.skip(f"qemu-{architecture}-static is not installed (Debian: qemu-user-static)")


def _build_program(library: Library, architecture: str, folder: Path) -> None:
    # The emulator has no C library of that machine, so the program is static, which zig does with musl.
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl", "-static", "-O1"]
    header = ["-std=c11", "-DMODEL=model", '-DMODEL_HEADER="model.h"', f"-I{library.folder}"]
    sources = [Path(__file__).parent / "run_files.c", library.folder / "libmodel.a"]
    subprocess.run([*compiler, *header, *sources, "-lm", "-lpthread", "-o", "program"], cwd=folder, check=True)


def _run(library: Library, feed: dict[str, np.ndarray], emulator: list[str], folder: Path) -> dict[str, np.ndarray]:
    manifest = library.manifest
    for index, tensor in enumerate(manifest["inputs"]):
        feed[tensor["name"]].astype(tensor["dtype"]).tofile(folder / f"input{index}.bin")
    subprocess.run([*emulator, folder / "program"], cwd=folder, check=True, timeout=500)
    return {
        tensor["name"]: np.fromfile(folder / f"output{index}.bin", tensor["dtype"]).reshape(tensor["shape"])
        for index, tensor in enumerate(manifest["outputs"])
    }
