"""Libraries of several variants: what they share, which one is picked, and how one takes another's place."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from codegen.objects import exported
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.codegen import TracedStep, Variant, artefact, generate, generate_variants, trace
from lepton_compile.codegen.adaptive import AdaptiveDriver, extension, facets
from lepton_compile.codegen.building import kernel_tasks
from lepton_compile.codegen.cpu_features import cpu_checks
from lepton_compile.codegen.driver import Facts
from lepton_compile.codegen.interface import header, make_interface
from lepton_compile.codegen.linking import compiler_command, host_architecture
from lepton_compile.codegen.parts import Part
from lepton_compile.codegen.weights import write_weights
from lepton_compile.errors import LeptonError, ModelError, TargetError
from lepton_compile.lowering import lower
from lepton_compile.lowering.program import Buffer, Call, MemoryPlan, Program, Storage
from lepton_compile.model import import_model
from lepton_compile.runtime.loader import CompiledModel
from lepton_compile.target import resolve_target

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
RUNTIME = HERE.parent.parent / "lepton_compile" / "runtime"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
X86_ONLY = pytest.mark.skipif(host_architecture() != "x86_64", reason="x86-64 features")


def net(width: int, bits: int = 32) -> onnx.ModelProto:
    """Two convolutions and a product; all but the second convolution is the same at every width.

    With 8 bits, that convolution has weights of bytes.
    """
    random = np.random.default_rng(0)
    weights = {
        "stem": random.standard_normal((64, 3, 3, 3), dtype=np.float32),
        "matrix": random.standard_normal((64 * 64, 10), dtype=np.float32),
        "kernel": random.standard_normal((width, 64, 3, 3), dtype=np.float32) / 16,
    }
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "kernel"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["deep", "axis"], ["mean"]),
        helper.make_node("Mul", ["pooled", "mean"], ["gated"]),
        helper.make_node("Flatten", ["gated"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
    ]
    constants = [*weights.items(), ("axis", np.array([1], np.int64))]
    if bits == 8:
        scale = np.float32(np.abs(weights["kernel"]).max() / 127)
        constants[2] = ("bytes", np.rint(weights["kernel"] / scale).astype(np.int8))
        constants += [("scale", np.asarray(scale))]
        nodes.insert(0, helper.make_node("DequantizeLinear", ["bytes", "scale"], ["kernel"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


MODELS = {"full": net(64), "bytes": net(64, 8), "half": net(32)}
IMAGE = {"image": np.random.default_rng(1).standard_normal((1, 3, 16, 16), dtype=np.float32)}


def expected(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, IMAGE)
    return np.asarray(scores)


def assert_close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.linalg.norm(actual - wanted) <= 1e-4 * np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def library() -> artefact.Library:
    """The net at 3 ms, with weights of bytes at 2 ms, and narrower at 1.001 ms."""
    target = resolve_target("host")
    return generate_variants(
        [
            Variant(name, lower(import_model(model), target, "net"), target, seconds, {"steps": [], "of": name})
            for (name, model), seconds in zip(MODELS.items(), (3e-3, 2e-3, 1.001e-3), strict=True)
        ],
        model_hash="ab12",
    )


def test_each_variant_gives_the_answers_of_its_model(library) -> None:
    assert not np.allclose(expected(MODELS["full"]), expected(MODELS["half"]), rtol=1e-2)
    model = CompiledModel(library.folder, threads=1, keep=library)
    assert [variant.name for variant in model.variants] == list(MODELS)
    for variant in (*model.variants, *reversed(model.variants)):
        assert model.adapt(latency_s=variant.seconds)
        assert model.variant == variant
        for _ in range(2):
            assert_close(model.run(IMAGE)["scores"], expected(MODELS[variant.name]))


def test_what_variants_share_is_stored_once(library) -> None:
    """The stem and the matrix; and kernels as well."""
    manifest = library.manifest
    assert isinstance(manifest["memory"], dict) and isinstance(manifest["variants"], list)
    reads = [variant["memory"]["weights_bytes"] for variant in manifest["variants"]]
    shared = 4 * (64 * 3 * 3 * 3 + 64 * 64 * 10)
    assert max(reads) < manifest["memory"]["weights_bytes"] <= sum(reads) - 2 * shared
    full = library.variants[0]
    assert generate(full.program, full.target).manifest["memory"]["weights_bytes"] == pytest.approx(reads[0], abs=1024)
    declared = re.findall(r"^int32_t (net_\w+)\(", (library.folder / "net.c").read_text(), re.MULTILINE)
    kernels = sum(len({call.kernel for call in variant.program.calls()}) for variant in library.variants)
    assert len(set(declared)) == len(declared) < kernels


def test_the_folder_tells_of_each_variant(library) -> None:
    manifest = json.loads((library.folder / "manifest.json").read_text())
    full, _, half = manifest["variants"]
    assert [full["name"], full["seconds"], full["plan"], half["plan"]] == ["full", 3e-3, "plan.json", "plan-half.json"]
    assert (manifest["kernels"], manifest["passes"]) == (full["kernels"], full["passes"])
    assert manifest["memory"]["arena_bytes"] == max(each["memory"]["arena_bytes"] for each in manifest["variants"])
    assert json.loads((library.folder / "plan-half.json").read_text())["of"] == "half"
    steps = json.loads((library.folder / "steps.json").read_text())["steps"]
    assert [step["number"] for step in steps] == list(range(len(steps)))
    assert list(dict.fromkeys(step["variant"] for step in steps)) == list(MODELS)
    page = (library.folder / "report.html").read_text()
    assert "Variants, the best first" in page and "Steps of a run of half" in page
    model = CompiledModel(library.folder, keep=library)
    assert "variant half: 1.001 ms on one thread" in model.report


def test_a_profile_is_of_the_variant_that_runs(library) -> None:
    model = CompiledModel(library.folder, latency_s=1.001e-3, threads=1, keep=library)
    profile = model.profile(IMAGE, runs=2)
    assert {step["variant"] for step in profile.steps} == {"half"}
    assert not np.isnan(profile.step_seconds).any()
    steps: list[TracedStep] = []
    outputs = trace(library, IMAGE, steps.append)
    assert [step.call for step in steps] == list(library.variants[0].program.calls())
    assert_close(outputs["scores"], expected(MODELS["full"]))


def test_limits_hold_for_each_number_of_threads(library) -> None:
    model = CompiledModel(library.folder, threads=1, keep=library)
    for threads in (1, 2):
        assert_close(model.run(IMAGE, threads=threads)["scores"], expected(MODELS["full"]))
    assert not model.adapt(latency_s=1e-6)
    for threads in (1, 2):
        assert_close(model.run(IMAGE, threads=threads)["scores"], expected(MODELS["half"]))


def test_limits_that_are_none_are_refused_in_a_line(library, make_program, host) -> None:
    model = CompiledModel(library.folder, keep=library)
    for wrong in (0, -1.0, float("nan"), "1 ms", True):
        with pytest.raises(LeptonError, match=r"latency_s is .*; it must be a number above 0"):
            model.adapt(latency_s=wrong)  # type: ignore[arg-type]
    with pytest.raises(LeptonError, match="memory_bytes is 0; it must be a number above 0"):
        CompiledModel(library.folder, memory_bytes=0)
    single = generate(make_program(), host)
    with pytest.raises(LeptonError, match="toy holds no variants to choose from: compile it with several"):
        CompiledModel(single.folder, latency_s=1.0)
    model = CompiledModel(single.folder, keep=single)
    assert (model.variants, model.variant) == ((), None)


@X86_ONLY
def test_the_first_that_the_processor_can_run_is_picked(monkeypatch) -> None:
    """Bit 16 of leaf 1's ECX is reserved: no processor sets it, so those that ask for it are never picked."""
    lacking = '{"telepathy", 0x1, 0, LEPTON_ECX, 16, LEPTON_NO_STATE}'
    names = ["host", "x86-64-v3", "x86-64-v2"]
    targets = [resolve_target(name) for name in names]
    variants = [
        Variant(target.name.replace("-", "_"), lower(import_model(MODELS["full"]), target, "net"), target, 1e-3)
        for target in targets
    ]
    for first in range(len(names) + 1):
        asked = {target.name: cpu_checks(target) for target in targets}
        asked |= {name: (*asked[name], lacking) for name in names[:first]}
        monkeypatch.setattr(artefact, "cpu_checks", lambda target, asked=asked: asked[target.name])
        library = generate_variants(variants)
        model = CompiledModel(library.folder, keep=library)
        if first == len(names):
            with pytest.raises(TargetError, match="this processor lacks telepathy, which the library was compiled for"):
                model.run(IMAGE)
            break
        assert model.variant is not None and model.variant.name == variants[first].name
        assert_close(model.run(IMAGE)["scores"], expected(MODELS["full"]))


def less(program: Program) -> Program:
    """Of y = 3 x + w, the part y = 3 x, whose scale is a sum with itself: another program of the same interface."""
    first = program.kernels["add"]
    return replace(
        program,
        weights={},
        buffers={name: buffer for name, buffer in program.buffers.items() if name != "w"},
        kernels={"add": first},
        steps=(Call("add", ("x", "x", "t"), ("Mul_1",)), Call("add", ("t", "x", "y"), ("Add_3",), parallel=False)),
        memory=MemoryPlan({"t": 0}, 1536),
    )


@pytest.fixture(scope="module")
def toy(make_program, host) -> artefact.Library:
    program = make_program()
    variants = [Variant("full", program, host, 2e-3), Variant("less", less(program), host, 1e-3)]
    return generate_variants(variants, static=True)


def test_the_text_is_the_golden_one(make_program, host, tmp_path: Path) -> None:
    """Set UPDATE_GOLDEN=1 to write the texts anew, and read the difference."""
    program = make_program()
    variants = [Variant("full", program, host, 2e-3), Variant("less", less(program), host, 1e-3)]
    weights = write_weights([variant.program.weights for variant in variants], io.BytesIO())
    _, symbols = kernel_tasks(variants, tmp_path)
    checks = ('{"dotprod", AT_HWCAP, 0x100000}',)
    parts = [
        Part(program, symbols[0], weights.offsets[0], checks),
        Part(variants[1].program, symbols[1], weights.offsets[1], (), first_step=2),
    ]
    facts = Facts("1.2.3", "my-board", "0123")
    interface = make_interface(program)
    texts = {
        "toy_variants.h": header(
            program, interface, description="Generated for a test.", extension=extension("toy", len(variants))
        ),
        "toy_variants.c": AdaptiveDriver(parts, weights, facts, facets(variants, weights)).text(),
    }
    for name, text in texts.items():
        if os.environ.get("UPDATE_GOLDEN"):
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text(), name


def test_programs_in_c_use_it(toy, host, tmp_path: Path) -> None:
    assert {f"toy_{name}" for name in ("adapt", "taken")} < set(exported(toy.path))
    compiler = compiler_command(host.triple, host.zig_triple())
    flags = [*STRICT, "-O1", f"-I{toy.folder}", HERE / "variants.c", f"-L{toy.folder}", "-Wl,-Bdynamic", "-ltoy"]
    subprocess.run([*compiler, *flags, "-lpthread", "-o", tmp_path / "use"], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(toy.folder)}
    done = subprocess.run([tmp_path / "use"], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_one_source_serves_libraries_with_variants_and_without(toy, make_program, host, tmp_path: Path) -> None:
    (tmp_path / "use.c").write_text(
        """\
#include "toy.h"
int main(void) {
  toy_instance *model = 0;
  toy_options options = {};
  options.threads = 1;
#ifdef TOY_VARIANTS
  options.limits.latency_ns = 1000000;
#endif
  if (toy_create(&options, &model) != TOY_OK) return 9;
  int32_t taken = 0;
#ifdef TOY_VARIANTS
  taken = toy_taken(model, 0);
#endif
  toy_destroy(model);
  return taken;
}
"""
    )
    for library, taken in ((toy, 1), (generate(make_program(), host, static=True), 0)):
        for language in (["-std=c23"], ["-xc++", "-std=c++11"]):
            flags = [*language, *STRICT[1:], f"-I{library.folder}"]
            compiler = [sys.executable, "-m", "ziglang", "cc", *flags]
            subprocess.run([*compiler, "-c", "use.c", "-o", "use.o"], cwd=tmp_path, check=True)
            linker = [sys.executable, "-m", "ziglang", "cc", "use.o", library.folder / "libtoy.a", "-lm", "-lpthread"]
            subprocess.run([*linker, "-o", "use"], cwd=tmp_path, check=True)
            assert subprocess.run([tmp_path / "use"], check=False).returncode == taken


def test_no_data_race_is_found(toy, tmp_path: Path) -> None:
    """The driver itself is built with the thread sanitizer; the kernels are as they are."""
    compiler = shutil.which("cc")
    sanitized = [compiler, "-std=c11", "-O1", "-g", "-fsanitize=thread", f"-I{toy.folder}", f"-I{RUNTIME}"]
    sources = [HERE / "variants.c", toy.folder / "toy.c", toy.folder / "libtoy.a"]
    command = [*sanitized, *sources, "-lm", "-lpthread", "-o", tmp_path / "use"]
    if compiler is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no thread sanitizer")
    done = subprocess.run([tmp_path / "use"], capture_output=True, text=True, check=False, timeout=300)
    assert "data race" not in done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_adapting_while_another_thread_runs(toy) -> None:
    model = CompiledModel(toy.folder, keep=toy)
    x = np.arange(8 * 48, dtype=np.float32).reshape(8, 48)
    answers = {"full": 3 * x + toy.program.weights["w"], "less": 3 * x}
    met: dict[str | None, int] = {}
    running = threading.Event()
    running.set()

    def run() -> None:
        while running.is_set():
            got = model.run({"images:0": x})["class"]
            found = next((name for name, answer in answers.items() if np.array_equal(got, answer)), None)
            met[found] = met.get(found, 0) + 1

    thread = threading.Thread(target=run)
    thread.start()
    end = time.monotonic() + 1
    while time.monotonic() < end or len(met) < 2:
        assert not model.adapt(latency_s=1e-9)
        assert model.adapt()
    running.clear()
    thread.join()
    assert set(met) == {"full", "less"}


def chain(make_map_kernel, rows: int, columns: int, steps: int) -> Program:
    """x doubled as often as said, by way of as many buffers, less one, in the arena."""
    shape = (rows, columns)
    names = ["x", *(f"t{number}" for number in range(1, steps)), "y"]
    storage = {"x": Storage.INPUT, "y": Storage.OUTPUT}
    buffers = {
        name: Buffer(name, shape, "float32", storage=storage.get(name, Storage.ARENA), tensor=name) for name in names
    }
    size = 4 * rows * columns
    return Program(
        "chain",
        (buffers["x"],),
        (buffers["y"],),
        buffers,
        {},
        {"double": make_map_kernel("double", lambda a: a + a, rows, columns)},
        tuple(Call("double", pair, (pair[1],)) for pair in itertools.pairwise(names)),
        MemoryPlan({name: size * number for number, name in enumerate(names[1:-1])}, size * (steps - 1)),
    )


def test_memory_is_given_back_when_less_is_asked_for(make_map_kernel, host) -> None:
    """Again and again, and where the C library has learnt to keep such blocks for itself (M_MMAP_THRESHOLD)."""
    np.ones(30 << 20, np.uint8)
    rows, columns = 512, 4096
    size = 4 * rows * columns
    programs = [chain(make_map_kernel, rows, columns, steps) for steps in (3, 1)]
    library = generate_variants([Variant("long", programs[0], host, 2.0), Variant("short", programs[1], host, 1.0)])
    model = CompiledModel(library.folder, keep=library)
    x = np.ones((rows, columns), np.float32)
    process = psutil.Process()
    for _ in range(3):
        assert model.adapt()
        assert (model.run({"x": x})["y"] == 8).all()
        before = process.memory_info().rss
        assert model.adapt(memory_bytes=10**6)
        assert before - process.memory_info().rss > 2 * size - 10**6
        assert (model.run({"x": x})["y"] == 2).all()


def test_memory_that_is_not_there_is_not_asked_for(make_program, host) -> None:
    program = make_program()
    huge = replace(program, memory=MemoryPlan(program.memory.offsets, 1 << 60))
    library = generate_variants([Variant("huge", huge, host, 1e-3), Variant("less", less(program), host, 2e-3)])
    model = CompiledModel(library.folder, keep=library)
    assert model.variant is not None and model.variant.name == "less"
    assert not model.adapt(latency_s=1e-9)  # which the other would come nearer to
    assert model.variant.name == "less"
    np.testing.assert_array_equal(model.run({"images:0": np.ones((8, 48), np.float32)})["class"], 3)
    alone = [Variant("huge", huge, host, 1e-3), Variant("huger", huge, host, 2e-3)]
    library = generate_variants(alone)
    with pytest.raises(TargetError, match=f"toy can not be set up: no memory for an arena of {1 << 60} bytes"):
        CompiledModel(library.folder).run({"images:0": np.ones((8, 48), np.float32)})


def test_memory_that_is_free_and_not_to_be_had_leads_to_the_next(make_program, host) -> None:
    """A limit on addresses, which nothing tells of beforehand."""
    program = make_program()
    large = replace(program, memory=MemoryPlan(program.memory.offsets, 1 << 30))
    if psutil.virtual_memory().available < 2 << 30:
        pytest.skip("needs 2 GiB of free memory")
    library = generate_variants([Variant("large", large, host, 1e-3), Variant("less", less(program), host, 2e-3)])
    script = (
        "import resource, sys; from lepton_compile.runtime.loader import load\n"
        f"model = load({str(library.folder)!r}, threads=1, latency_s=2e-3)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (512 << 20) if sys.argv[1] == 'limited' else resource.RLIM_INFINITY\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))\n"
        "print(model.variant.name, model.adapt(), model.variant.name)\n"
    )
    for how, name in (("limited", "less"), ("free", "large")):
        command = [sys.executable, "-c", script, how]
        assert subprocess.check_output(command, text=True).split() == [name, "True", name]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"program": {"outputs": ()}},
            ModelError,
            r"variant 'less' has the outputs , and 'full' has the outputs class: float32\[8,48\]",
        ),
        ({"program": {"name": "other"}}, ModelError, "'less' has the name other, and 'full' has the name toy"),
        ({"program": {"dimensions": ("n",)}}, ModelError, "'less' has the dimensions n, and 'full' has the dimensions"),
        ({"name": "full"}, LeptonError, "variants are named 'full', 'full'; they need identifiers that differ"),
        ({"name": "a-b"}, LeptonError, "variants are named 'full', 'a-b'; they need identifiers that differ"),
        ({"seconds": None}, LeptonError, "variant 'less' takes None seconds for a run"),
        ({"seconds": 0.0}, LeptonError, "it has to be a number above 0"),
        ({"target": {"triple": "riscv64-linux-gnu"}}, TargetError, "'less' is for riscv64-linux-gnu, and 'full' for"),
    ],
)  # fmt: skip
def test_variants_that_do_not_fit_together_are_refused(
    make_program, host, change: Mapping[str, object], error: type[LeptonError], message: str
) -> None:
    variant = Variant("less", make_program(), host, 1e-3)
    changed = {
        name: replace(getattr(variant, name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(error, match=message) as caught:
        generate_variants([Variant("full", make_program(), host, 2e-3), replace(variant, **changed)])
    assert "\n" not in str(caught.value)
    with pytest.raises(LeptonError, match="needs at least one variant"):
        generate_variants([])


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_another_architecture_picks_by_its_processor(make_program, tmp_path: Path, cpu: str) -> None:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if host_architecture() == "aarch64" or emulator is None:
        pytest.skip("needs qemu-user and a foreign architecture")
    program = make_program()
    library = generate_variants(
        [
            Variant("dotprod", program, resolve_target("cortex-a76"), 1e-3),
            Variant("plain", less(program), resolve_target("cortex-a53"), 2e-3),
        ],
        static=True,
    )
    (tmp_path / "use.c").write_text(
        """\
#include <stdio.h>
#include "toy.h"
int main(void) {
  static float image[8 * 48];
  toy_instance *model = NULL;
  toy_inputs inputs = {.images_0 = image};
  toy_outputs outputs = {0};
  if (toy_create(NULL, &model) != TOY_OK || toy_run(model, &inputs, &outputs) != TOY_OK) return 1;
  const char *lacks = toy_info()->variants[0].lacks;
  printf("%s %s %g\\n", toy_info()->variants[toy_taken(model, NULL)].name, lacks ? lacks : "-", outputs.class_[5]);
  toy_destroy(model);
  return 0;
}
"""
    )
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", *STRICT]
    command: Sequence[str | Path] = [*compiler, f"-I{library.folder}", "use.c", library.folder / "libtoy.a"]
    subprocess.run([*command, "-o", "use"], cwd=tmp_path, check=True)
    told = subprocess.check_output([emulator, "-cpu", cpu, "./use"], cwd=tmp_path, text=True)
    assert told == {"cortex-a53": "plain fullfp16 0\n", "cortex-a76": "dotprod - 5\n"}[cpu]


def test_the_same_variants_give_the_same_bytes(toy, make_program, host) -> None:
    program = make_program()
    variants = [Variant("full", program, host, 2e-3), Variant("less", less(program), host, 1e-3)]
    again = generate_variants(variants, static=True)
    for path in toy.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name
