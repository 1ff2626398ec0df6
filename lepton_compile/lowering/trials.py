"""A program that tries algorithms: a step, or a few, for each of the contenders for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tvm import te

from lepton_compile.kernels.kernel import Epilogue
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.lowering.anchors.algorithms import ConvolutionProblem, emit_algorithm
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.choosing import Problem
from lepton_compile.lowering.lower import machine_of
from lepton_compile.lowering.program import Program, Storage
from lepton_compile.lowering.region import Scope

if TYPE_CHECKING:
    from lepton_compile.target import Target


def trial_program(problems: Sequence[Problem], target: Target) -> tuple[Program, dict[str, tuple[str, str]]]:
    """The program of all trials, and, by the node name of a trial's steps, the problem's key and the algorithm's name.

    It has no inputs; what the steps compute from is whatever lies in the arena, and random weights.
    """
    builder = Builder("trials", machine_of(target))
    builder.outputs.append(builder.buffer((1,), "float32", storage=Storage.OUTPUT, tensor="none"))
    trials: dict[str, tuple[str, str]] = {}
    for problem in problems:
        for algorithm in problem.contenders():
            label = f"trial {len(trials)}"
            trials[label] = problem.key, algorithm.name
            assert isinstance(problem.subject, ConvolutionProblem)
            _try_convolution(builder, label, problem.subject, algorithm.plan, len(trials))
    return builder.finish(), trials


def _try_convolution(builder: Builder, label: str, problem: ConvolutionProblem, plan: object, seed: int) -> None:
    shape = problem.shape
    channels, outputs = shape.groups * shape.inputs, shape.groups * shape.outputs
    scope = Scope(builder, (label,))
    layout = PLAIN if problem.few_channels else builder.blocked
    image = builder.buffer((shape.batch, channels, *(window.input for window in shape.windows)), "float32", layout)
    made = (shape.batch, outputs, *(window.positions for window in shape.windows))
    result = builder.buffer(made, "float32", builder.blocked)
    anchor = te.placeholder(made, "float32", name="anchor")
    kernel = [window.kernel for window in shape.windows]
    # Different ones each time, since equal weights are kept once, and would be found in the cache.
    weights = np.random.default_rng(seed).standard_normal((outputs, shape.inputs, *kernel), dtype=np.float32)
    epilogue = Epilogue(anchor, anchor, (), builder.blocked)
    emit_algorithm(scope, problem, plan, scope.tensor_of(image), weights, epilogue, [], result)
