"""Program to artefact: a folder with the library, its header, its driver to read, and a manifest.

libNAME.so      the library
NAME.h          its interface in C
NAME.c          its driver, to read
manifest.json   what it was made from, what it needs, what it holds
steps.json      what each step of a run computes, for profiles
plan.json       what was decided and why, where there was a plan; plan-VARIANT.json for variants but the first
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compile.codegen import adaptive
from lepton_compile.codegen.adaptive import AdaptiveDriver, Facet, extension, facets
from lepton_compile.codegen.building import kernel_tasks
from lepton_compile.codegen.cpu_features import cpu_checks
from lepton_compile.codegen.driver import Driver, Facts
from lepton_compile.codegen.interface import API, header, make_interface, onnx_name
from lepton_compile.codegen.linking import Toolchain
from lepton_compile.codegen.objects import build_missing
from lepton_compile.codegen.parts import Part
from lepton_compile.codegen.pool import KERNEL_LIMIT, Task, workers
from lepton_compile.codegen.steps import describe_steps
from lepton_compile.codegen.variants import Variant, check_variants
from lepton_compile.codegen.weights import WeightTable, embed_weights, weights_assembly
from lepton_compile.errors import LeptonError
from lepton_compile.lowering.program import Buffer, Program
from lepton_compile.reporting import page, sections
from lepton_compile.runtime.loader import replace_folder
from lepton_compile.target.score import score

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
        variants: What the library was generated from, the best first.
    """

    name: str
    folder: Path
    manifest: Mapping[str, object]
    variants: tuple[Variant, ...] = field(repr=False)

    @property
    def program(self) -> Program:
        """The first variant's program, which is the only one of most libraries."""
        return self.variants[0].program

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
    return generate_variants(
        [Variant("only", program, target, plan=plan)],
        static=static,
        model_hash=model_hash,
        tuning=tuning,
        progress=progress,
        kernel_limit=kernel_limit,
    )


def generate_variants(
    variants: Sequence[Variant],
    *,
    static: bool = False,
    model_hash: str = "",
    tuning: Mapping[str, object] | None = None,
    progress: Callable[[str], None] | None = None,
    kernel_limit: float = KERNEL_LIMIT,
) -> Library:
    """One library for several variants of a model, of which it picks one where it runs.

    They share the kernels and weights that are equal. What callers see, the manifest and plan.json are the first one's,
    but for what stands under "variants".

    Args:
        variants: The best first: the most accurate one, and of those that are equally accurate the fastest.
        static: As for `generate`, like all that follow.
        model_hash: That of the model that variants are made of.
        tuning: Of all variants.
        progress: Called with a line of text at long steps.
        kernel_limit: Seconds that building one kernel may take.

    Returns:
        The library, in a temporary folder that is removed with the value.

    Raises:
        ModelError, TargetError: The variants do not fit together.
        BuildError: Names the kernel and its ONNX nodes, or says what the linker did not like.
        LeptonError: When a variant's name or time is none, or the temporary folder can not be written.
    """
    check_variants(variants)
    with tempfile.TemporaryDirectory(prefix="lepton-build-") as scratch:
        try:
            return _generate(Path(scratch), tuple(variants), static, model_hash, tuning, progress, kernel_limit)
        except OSError as error:
            raise LeptonError(f"the library can not be written: {error}", path=error.filename) from error


def _generate(
    scratch: Path,
    variants: tuple[Variant, ...],
    static: bool,
    model_hash: str,
    tuning: Mapping[str, object] | None,
    progress: Callable[[str], None] | None,
    kernel_limit: float,
) -> Library:
    first, several = variants[0], len(variants) > 1
    name = first.program.name
    version = importlib.metadata.version("lepton-compile")
    portable = any(variant.target.name != "host" for variant in variants)
    tools = Toolchain(scratch, first.target.triple, first.target.zig_triple(), portable, progress)
    tasks, symbols = kernel_tasks(variants, scratch)
    with ThreadPoolExecutor(1) as beside:  # the driver compiles while the workers build kernels
        driven = beside.submit(_build_driver, scratch, variants, symbols, tools, version, model_hash)
        _build_kernels(tasks, progress, kernel_limit)
        weights = driven.result()
    objects = ["driver.o", "weights.o", *(task.path.name for task in tasks)]
    library = f"lib{name}.so"
    functions = [*API, *adaptive.API] if several else API
    tools.link(objects, library, [f"{name}_{function}" for function in functions])
    files = [library, f"{name}.h", f"{name}.c"]
    if static:
        tools.archive(objects, f"lib{name}.a")
        files.append(f"lib{name}.a")

    manifest = _manifest(variants, weights, model_hash, version, scratch / library, tuning)
    folder = Path(tempfile.mkdtemp(prefix="lepton-"))
    result = Library(name, folder, manifest, variants)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    for file in files:
        shutil.move(scratch / file, folder / file)
    _write_json(folder / "manifest.json", manifest)
    steps = _steps(variants)
    _write_json(folder / "steps.json", {"steps": steps})
    for variant in variants:
        if variant.plan is not None:
            _write_json(folder / _plan_file(variant, variants), variant.plan)
    if tuning is not None:
        _write_json(folder / "tuning.json", tuning)
    title = f"{name} for {first.target.name}"
    others = {variant.name: variant.plan for variant in variants[1:] if variant.plan is not None}
    (folder / "report.html").write_text(page(title, sections(manifest, first.plan or {}, steps, others)), "utf-8")
    return result


def _build_driver(
    scratch: Path,
    variants: Sequence[Variant],
    symbols: Sequence[Mapping[str, str]],
    tools: Toolchain,
    version: str,
    model_hash: str,
) -> WeightTable:
    """Write the table of weights, the header and the driver, and compile them to weights.o and driver.o."""
    program, target = variants[0].program, variants[0].target
    name = program.name
    (scratch / "weights.S").write_text(weights_assembly(f"{name}_weights", target.architecture), "utf-8")
    tools.compile("weights.S", "weights.o")
    weights = embed_weights([variant.program.weights for variant in variants], scratch / "weights.o")
    parts: list[Part] = []
    first_step = 0
    for variant, symbols_, offsets in zip(variants, symbols, weights.offsets, strict=True):
        parts.append(Part(variant.program, symbols_, offsets, cpu_checks(variant.target), first_step))
        first_step += sum(1 for _ in variant.program.calls())
    facts = Facts(version, target.name, model_hash)
    if len(variants) > 1:
        driver: Driver = AdaptiveDriver(parts, weights, facts, facets(variants, weights))
        extended = extension(name, len(variants))
    else:
        driver, extended = Driver(parts, weights, facts), None
    described = f"Generated by lepton_compile {version} for {target.name} ({target.triple})."
    text = header(program, make_interface(program), description=described, extension=extended)
    (scratch / f"{name}.h").write_text(text, "utf-8")
    (scratch / f"{name}.c").write_text(driver.text(), "utf-8")
    tools.compile(f"{name}.c", "driver.o")
    return weights


def _build_kernels(tasks: Sequence[Task], progress: Callable[[str], None] | None, limit: float) -> None:
    pool = workers()
    if progress is not None:
        progress(f"building {len(tasks)} kernels")
    # The largest first, so that no worker is left with one at the end.
    ordered = sorted(tasks, key=lambda task: len(task.function), reverse=True)
    build_missing(ordered, lambda missing: pool.build(missing, limit=limit))


def _steps(variants: Sequence[Variant]) -> list[dict[str, object]]:
    """What steps.json lists: each step of each variant, numbered as the library numbers them."""
    if len(variants) == 1:
        return describe_steps(variants[0].program, variants[0].times)
    steps = [(variant.name, step) for variant in variants for step in describe_steps(variant.program, variant.times)]
    return [step | {"number": number, "variant": name} for number, (name, step) in enumerate(steps)]


def _plan_file(variant: Variant, variants: Sequence[Variant]) -> str:
    return "plan.json" if variant is variants[0] else f"plan-{variant.name}.json"


def _variant(variant: Variant, facet: Facet, variants: Sequence[Variant]) -> dict[str, object]:
    """What the manifest tells of one of several variants."""
    program = variant.program
    return {
        "name": variant.name,
        "seconds": variant.seconds,
        "target": variant.target.describe(),
        "memory": {
            "arena_bytes": facet.arena_bytes,
            "weights_bytes": facet.weights_bytes,
            "peak_bytes": facet.memory_bytes,
        },
        "notes": list(program.notes),
        "passes": (variant.plan or {}).get("steps", []),
        "plan": _plan_file(variant, variants) if variant.plan is not None else None,
        "kernels": _kernels(program),
    }


def _manifest(
    variants: Sequence[Variant],
    weights: WeightTable,
    model_hash: str,
    version: str,
    library: Path,
    tuning: Mapping[str, object] | None,
) -> dict[str, object]:
    program, target, plan = variants[0].program, variants[0].target, variants[0].plan
    with library.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = {
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
        "score": _score(target),
        "triple": target.triple,
        "versions": _versions(version),
        "inputs": [_tensor(buffer) for buffer in program.inputs],
        "outputs": [_tensor(buffer) for buffer in program.outputs],
        "dimensions": list(program.dimensions),
        "memory": {
            "arena_bytes": max(variant.program.memory.arena_bytes for variant in variants),
            "weights_bytes": weights.nbytes,
            "peak_bytes": max(variant.program.peak_bytes for variant in variants),
            "weights_sha256": weights.digest,
        },
        "choices": [asdict(choice) for choice in program.choices],
        "kernels": _kernels(program),
    }
    if len(variants) > 1:
        each = zip(variants, facets(variants, weights), strict=True)
        manifest["variants"] = [_variant(variant, facet, variants) for variant, facet in each]
    return manifest


def _score(target: Target) -> dict[str, object]:
    found = score(target)
    return {"value": found.value, "ratings": [asdict(rating) for rating in found.ratings]}


def _kernels(program: Program) -> list[dict[str, object]]:
    calls = Counter(call.kernel for call in program.calls())
    return [
        {
            "name": kernel.name,
            "family": kernel.family,
            "nodes": list(kernel.nodes),
            "operations": kernel.operations,
            "calls": calls[kernel.name],
        }
        for kernel in program.kernels.values()
        if kernel.name in calls
    ]


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
