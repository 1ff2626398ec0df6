"""Bisection: find the first pass, and then the first kernel, whose value leaves onnxruntime's.

Every graph between passes is valid ONNX, so that each can be run by onnxruntime and compared with the model as it was
published; every kernel stores ONNX tensors, so that each can be compared with onnxruntime's value of the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy.typing as npt

from lepton_compile.codegen import generate
from lepton_compile.errors import PassError
from lepton_compile.evaluation.compare import TENSOR_TOLERANCE, Mismatch, compare_outputs
from lepton_compile.evaluation.kernels import KERNEL_TOLERANCE, KernelCheck, check_kernels
from lepton_compile.evaluation.probes import random_inputs
from lepton_compile.evaluation.reference import precise, reference_answers
from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.model.execution import evaluate
from lepton_compile.model.load import Source, read_model
from lepton_compile.planning import adapt
from lepton_compile.planning.adapt import choose_passes
from lepton_compile.rewriting import Context, Pass, Stage, replay_steps
from lepton_compile.rewriting.registry import configure, registered_passes
from lepton_compile.rewriting.verification import Verification
from lepton_compile.target import Target, resolve_target

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finding:
    """What makes a compiled model leave onnxruntime's answers.

    Attributes:
        culprit: "import", "pass", "kernel" or "library" (the kernels are right, and yet the outputs are not); "" where
            nothing is wrong.
        name: The name of the pass or kernel.
        nodes: The ONNX nodes that the kernel computes.
        detail: What is wrong, for a person to read.
        passes: The passes that ran and were found right, in order.
        kernels: How the kernels compare, in the order they ran; empty where a pass is the culprit.
    """

    culprit: str
    name: str = ""
    nodes: tuple[str, ...] = ()
    detail: str = ""
    passes: tuple[str, ...] = ()
    kernels: tuple[KernelCheck, ...] = ()

    def __str__(self) -> str:
        checked = f"{len(self.passes)} passes and {len(self.kernels)} kernels"
        match self.culprit:
            case "import":
                return f"importing the model changes its answers: {self.detail}"
            case "pass":
                return f"{self.detail} ({len(self.passes)} passes before it are right)"
            case "kernel":
                nodes = ", ".join(f"'{node}'" for node in self.nodes)
                return f"kernel '{self.name}' for {nodes}: {self.detail}"
            case "library":
                return f"{checked} are right, and yet the library is not: {self.detail}"
        worst = max(self.kernels, key=lambda check: check.error, default=None)
        error = f"; the largest error of a kernel is {worst.error:.1e}, of '{worst.tensor}'" if worst else ""
        return f"nothing leaves onnxruntime's answers: {checked} are right{error}"


def bisect(
    model: Source,
    target: str | PathLike[str] | Mapping[str, object] | Target = "host",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Mapping[str, Array] | None = None,
    passes: Sequence[str | Pass] | None = None,
    progress: Progress | None = None,
) -> Finding:
    """Find the first pass, and then the first kernel, whose value leaves onnxruntime's.

    Args:
        model: A path, the bytes of a model, or a model.
        target: The machine to compile for; it must be one that this machine can run.
        shapes: Sizes of the inputs that have dynamic dimensions.
        inputs: What to run the model on; random values by default.
        passes: The passes that take part; None: all.
        progress: Called with a stage and how much of how much of it is done.

    Returns:
        What was found.

    Raises:
        LeptonError: The model cannot be compiled at all.
        TargetError: This machine cannot run the library, and no pass is the culprit.
    """
    report = progress or (lambda stage, done, total: None)
    target = resolve_target(target)
    report("importing the model", 0, 1)
    graph = import_model(model, shapes)
    inputs = dict(random_inputs(graph, seed=0) if inputs is None else inputs)
    structure, weights = read_model(model)
    expected = evaluate(precise(structure), {**weights, **inputs})
    if mismatches := compare_outputs(reference_answers(graph, inputs), expected):
        return Finding("import", detail=_listed(mismatches))

    try:
        fused, plan = adapt(graph, target, passes=passes)
    except PassError as error:
        return Finding("pass", error.pass_name, detail=str(error))
    right: list[str] = []
    single = graph
    verification = Verification(graph, inputs)
    classes = registered_passes() | {rewrite.name: type(rewrite) for rewrite in choose_passes(passes)}
    for number, step in enumerate(plan.steps):
        report("checking passes", number, len(plan.steps))
        rewrite = configure(step.name, step.settings, classes)
        try:
            graph = replay_steps(graph, [(rewrite, step)], Context())
            verification.check(rewrite, graph)
        except PassError as error:
            return Finding("pass", step.name, detail=str(error), passes=tuple(right))
        right.append(step.name)
        if step.stage is not Stage.FUSE:
            single = graph

    report("building the library", 0, 1)
    library = generate(lower(fused, target, "bisected"), target)
    report("checking kernels", 0, 1)
    checks, outputs = check_kernels(library, single, inputs)
    mismatches = compare_outputs(outputs, expected)
    if mismatches and verification.within_rounding(outputs):
        mismatches = []
    # Where the answers are right, a kernel that loses a digit to cancellation is no fault.
    tolerance = KERNEL_TOLERANCE if mismatches else TENSOR_TOLERANCE
    for check in checks:
        if check.mismatch is not None and check.error > tolerance:
            detail = check.mismatch.detail
            return Finding(
                "kernel", check.kernel, check.nodes, f"'{check.tensor}' {detail}", tuple(right), tuple(checks)
            )
    return Finding("library" if mismatches else "", "", (), _listed(mismatches), tuple(right), tuple(checks))


def _listed(mismatches: Sequence[Mismatch]) -> str:
    return "; ".join(map(str, mismatches))
