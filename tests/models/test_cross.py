"""Libraries for other machines, run under an emulator, give the same answers."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import corpus
import numpy as np
import onnx
import onnx.parser
import onnxruntime
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


@pytest.mark.parametrize(("features", "instruction"), [((), "sdot"), (("+i8mm",), "usdot")])
def test_products_of_bytes(features, instruction, tmp_path):
    """Convolutions, depthwise ones, and a product of unsigned and signed bytes, by each of Arm's instructions."""
    emulator = _emulator("cortex-a76")
    machine = resolve_target("cortex-a76")
    machine = replace(machine, features=tuple(sorted({*machine.features, *features})))
    assert machine.dot_products == instruction
    model, feed = _model_of_bytes()
    graph, _ = adapt(import_model(model), machine)
    program = lower(graph, machine, "model")
    families = {kernel.family for kernel in program.kernels.values()}
    assert {"integer convolution", "integer depthwise", "integer matmul"} <= families
    library = generate(program, machine, static=True)
    _build_program(library, "aarch64", tmp_path)
    actual = _run(library, feed, [*emulator, "-cpu", "max"] if emulator else [], tmp_path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip((output.name for output in session.get_outputs()), session.run(None, feed), strict=True))
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def _model_of_bytes() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model whose scales are powers of two, so that onnxruntime's answers are exact."""
    rows = []
    for name in ("u", "s"):
        rows.append(f"""
        {name}x = DequantizeLinear({name}, step, {name}z)
        {name}c = Conv<pads = [1, 1, 1, 1]>({name}x, cw)
        {name}1 = QuantizeLinear({name}c, step, {name}z)
        {name}d = Conv<group = 20, pads = [2, 2, 2, 2], strides = [2, 1]>({name}x, dw)
        {name}2 = QuantizeLinear({name}d, step, {name}z)
        {name}m = MatMul({name}x, mw)
        {name}3 = QuantizeLinear({name}m, step, {name}z)""")
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    model (uint8[1, 20, 9, 13] u, int8[1, 20, 9, 13] s) => (uint8 u1, uint8 u2, uint8 u3, int8 s1, int8 s2, int8 s3)
    <float step = {{0.0625}}, uint8 uz = {{9}}, int8 sz = {{-5}}> {{
        cw = DequantizeLinear(conv, small)
        dw = DequantizeLinear(slide, small)
        mw = DequantizeLinear(matrix, small)
        {"".join(rows)}
    }}"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    shapes = {"conv": (24, 20, 3, 3), "slide": (20, 1, 5, 5), "matrix": (13, 21)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(random.integers(-127, 128, shape).astype(np.int8), name)
        for name, shape in shapes.items()
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2.0**-9, np.float32), "small"))
    unsigned = random.integers(0, 256, (1, 20, 9, 13))
    return model, {"u": unsigned.astype(np.uint8), "s": (unsigned[..., ::-1] - 128).astype(np.int8)}


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
