"""Program to artefact: a folder with the library, its header, its driver to read, and a manifest.

libNAME.so      the library
NAME.h          its interface in C
NAME.c          its driver, to read
manifest.json   what it was made from, what it needs, what it holds
steps.json      what each step of a run computes, for profiles
plan.json       what was decided and why, where there was a plan
tuning.json     which algorithms were taken, as a tuning file for other builds
report.html     all that was decided and why, as a page
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compile.codegen.cpu_features import cpu_checks
from lepton_compile.codegen.driver import Facts, driver, kernel_symbol
from lepton_compile.codegen.interface import API, header, make_interface, onnx_name
from lepton_compile.codegen.linking import Toolchain
from lepton_compile.codegen.objects import build_missing
from lepton_compile.codegen.pool import KERNEL_LIMIT, Task, workers
from lepton_compile.codegen.steps import describe_steps
from lepton_compile.codegen.weights import WeightTable, embed_weights, weights_assembly
from lepton_compile.errors import LeptonError
from lepton_compile.lowering.program import Buffer, Program, location
from lepton_compile.reporting import page, sections
from lepton_compile.runtime.loader import replace_folder

if TYPE_CHECKING:
    from lepton_compile.target import Target

FORMAT = 1
"""Version of the folder's layout."""


@dataclass(frozen=True)
class Library:
    """A native library and what belongs to it, in a temporary folder that lives as long as this value.

    Attributes:
        name: The model's name.
        folder: The artefact's folder.
        manifest: What manifest.json holds.
        program: What the library was generated from.
    """

    name: str
    folder: Path
    manifest: Mapping[str, object]
    program: Program = field(repr=False)

    @property
    def path(self) -> Path:
        """The shared library."""
        return self.folder / f"lib{self.name}.so"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the artefact to a folder, in place of what an earlier save left there.

        Raises:
            LeptonError: When it can not be written; an existing folder is then as it was.
        """
        return replace_folder(self.folder, folder)


def generate(
    program: Program,
    target: Target,
    *,
    static: bool = False,
    model_hash: str = "",
    plan: Mapping[str, object] | None = None,
    tuning: Mapping[str, object] | None = None,
    progress: Callable[[str], None] | None = None,
    kernel_limit: float = KERNEL_LIMIT,
) -> Library:
    """Native code for a program.

    Args:
        program: The program.
        target: The machine that it is for.
        static: Whether to add a static library libNAME.a, for programs that bring no shared libraries.
        model_hash: SHA-256 of the ONNX model, for the manifest and NAME_info.
        plan: What goes into plan.json; its "steps" stand in the manifest too.
        tuning: What goes into tuning.json; the manifest has a hash of it.
        progress: Called with a line of text at long steps.
        kernel_limit: Seconds that building one kernel may take.

    Returns:
        The library, in a temporary folder that is removed with the value.

    Raises:
        BuildError: Names the kernel and its ONNX nodes, or says what the linker did not like.
        LeptonError: When the temporary folder can not be written.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-build-") as scratch:
        try:
            return _generate(Path(scratch), program, target, static, model_hash, plan, tuning, progress, kernel_limit)
        except OSError as error:
            raise LeptonError(f"the library can not be written: {error}", path=error.filename) from error


def _generate(
    scratch: Path,
    program: Program,
    target: Target,
    static: bool,
    model_hash: str,
    plan: Mapping[str, object] | None,
    tuning: Mapping[str, object] | None,
    progress: Callable[[str], None] | None,
    kernel_limit: float,
) -> Library:
    name = program.name
    version = importlib.metadata.version("lepton-compile")
    tools = Toolchain(scratch, target.triple, target.zig_triple(), target.name != "host", progress)
    with ThreadPoolExecutor(1) as beside:  # the driver compiles while the workers build kernels
        driven = beside.submit(_build_driver, scratch, program, target, tools, version, model_hash)
        kernels = _build_kernels(scratch, program, target, progress, kernel_limit)
        weights = driven.result()
    objects = ["driver.o", "weights.o", *kernels]
    library = f"lib{name}.so"
    tools.link(objects, library, [f"{name}_{function}" for function in API])
    files = [library, f"{name}.h", f"{name}.c"]
    if static:
        tools.archive(objects, f"lib{name}.a")
        files.append(f"lib{name}.a")

    manifest = _manifest(program, target, weights, model_hash, version, scratch / library, plan, tuning)
    folder = Path(tempfile.mkdtemp(prefix="lepton-"))
    result = Library(name, folder, manifest, program)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    for file in files:
        shutil.move(scratch / file, folder / file)
    _write_json(folder / "manifest.json", manifest)
    steps = describe_steps(program)
    _write_json(folder / "steps.json", {"steps": steps})
    if plan is not None:
        _write_json(folder / "plan.json", plan)
    if tuning is not None:
        _write_json(folder / "tuning.json", tuning)
    title = f"{name} for {target.name}"
    (folder / "report.html").write_text(page(title, sections(manifest, plan or {}, steps)), "utf-8")
    return result


def _build_driver(
    scratch: Path,
    program: Program,
    target: Target,
    tools: Toolchain,
    version: str,
    model_hash: str,
) -> WeightTable:
    """Write the table of weights, the header and the driver, and compile them to weights.o and driver.o."""
    name = program.name
    (scratch / "weights.S").write_text(weights_assembly(f"{name}_weights", target.architecture), "utf-8")
    tools.compile("weights.S", "weights.o")
    weights = embed_weights(program.weights, scratch / "weights.o")
    interface = make_interface(program)
    facts = Facts(version, target.name, model_hash, cpu_checks(target))
    described = f"Generated by lepton_compile {version} for {target.name} ({target.triple})."
    (scratch / f"{name}.h").write_text(header(program, interface, description=described), "utf-8")
    (scratch / f"{name}.c").write_text(driver(program, interface, weights, facts), "utf-8")
    tools.compile(f"{name}.c", "driver.o")
    return weights


def _build_kernels(
    scratch: Path,
    program: Program,
    target: Target,
    progress: Callable[[str], None] | None,
    limit: float,
) -> list[str]:
    """Build the kernels that are called; the file names of their objects."""
    pool = workers()
    used = {call.kernel for call in program.calls()}
    overlapping = _overlapping_kernels(program)
    tasks = [
        Task(
            kernel=kernel.name,
            nodes=kernel.nodes,
            function=kernel.text,
            symbol=kernel_symbol(program, kernel),
            target=target.tvm(),
            path=scratch / f"k{index}.o",
            dimensions=program.dimensions,
            noalias=kernel.name not in overlapping,
            small=program.small,
        )
        for index, kernel in enumerate(program.kernels.values())
        if kernel.name in used
    ]
    if progress is not None:
        progress(f"building {len(tasks)} kernels")
    # The largest first, so that no worker is left with one at the end.
    ordered = sorted(tasks, key=lambda task: len(task.function), reverse=True)
    build_missing(ordered, lambda missing: pool.build(missing, limit=limit))
    return [task.path.name for task in tasks]


def _overlapping_kernels(program: Program) -> set[str]:
    """The kernels that some call gives an output which shares memory with another argument."""
    found = set()
    for call in program.calls():
        inputs = program.kernels[call.kernel].inputs
        buffers = [program.buffers[argument] for argument in call.arguments]
        for position, output in enumerate(buffers[inputs:], inputs):
            others = buffers[:position] + buffers[position + 1 :]
            if any(_overlap(program, output, other) for other in others):
                found.add(call.kernel)
    return found


def _overlap(program: Program, first: Buffer, second: Buffer) -> bool:
    """Whether two buffers share memory, an output being in the caller's or in the arena."""
    (a, begin), (b, start) = location(program.buffers, first.name), location(program.buffers, second.name)
    if a != b:
        offsets = program.memory.offsets
        if a not in offsets or b not in offsets:
            return False
        begin, start = offsets[a] + begin, offsets[b] + start
    try:
        return begin < start + second.nbytes() and start < begin + first.nbytes()
    except TypeError:  # a symbolic size
        return True


def _manifest(
    program: Program,
    target: Target,
    weights: WeightTable,
    model_hash: str,
    version: str,
    library: Path,
    plan: Mapping[str, object] | None,
    tuning: Mapping[str, object] | None,
) -> dict[str, object]:
    with library.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    calls: dict[str, int] = {}
    for call in program.calls():
        calls[call.kernel] = calls.get(call.kernel, 0) + 1
    return {
        "format": FORMAT,
        "name": program.name,
        "model": {"sha256": model_hash},
        "notes": list(program.notes),
        "passes": (plan or {}).get("steps", []),
        "tuning": {"sha256": hashlib.sha256(_json_text(tuning).encode()).hexdigest()} if tuning is not None else None,
        "library": {
            "file": library.name,
            "bytes": library.stat().st_size,
            "sha256": digest,
        },
        "target": target.describe(),
        "triple": target.triple,
        "versions": _versions(version),
        "inputs": [_tensor(buffer) for buffer in program.inputs],
        "outputs": [_tensor(buffer) for buffer in program.outputs],
        "dimensions": list(program.dimensions),
        "memory": {
            "arena_bytes": program.memory.arena_bytes,
            "weights_bytes": weights.nbytes,
            "peak_bytes": program.peak_bytes,
            "weights_sha256": weights.digest,
        },
        "choices": [asdict(choice) for choice in program.choices],
        "kernels": [
            {
                "name": kernel.name,
                "family": kernel.family,
                "nodes": list(kernel.nodes),
                "operations": kernel.operations,
                "calls": calls[kernel.name],
            }
            for kernel in program.kernels.values()
            if kernel.name in calls
        ],
    }


def _tensor(buffer: Buffer) -> dict[str, object]:
    return {"name": onnx_name(buffer), "dtype": buffer.dtype, "shape": list(buffer.shape)}


def _versions(version: str) -> dict[str, str]:
    import tvm

    return {
        "lepton_compile": version,
        "tvm": importlib.metadata.version("apache-tvm"),
        "onnx": importlib.metadata.version("onnx"),
        "llvm": str(tvm.get_global_func("target.llvm_version_major")()),
    }


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(_json_text(value), "utf-8")


def _json_text(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
