"""Comparing kernels: does each compute what onnxruntime computes from the same values?

The library's run is traced. Then onnxruntime evaluates the graph with every tensor that a kernel stored replaced, for
those who read it, by what the kernel stored. So each kernel answers for its own error alone, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lepton_compile.codegen import Library, TracedStep, trace
from lepton_compile.evaluation.compare import Mismatch, compare_outputs, relative_error
from lepton_compile.evaluation.reference import precise
from lepton_compile.lowering.program import Buffer
from lepton_compile.model import Graph
from lepton_compile.model.execution import evaluate

Array = npt.NDArray[Any]

KERNEL_TOLERANCE = 1e-5
"""Largest relative error of what one kernel stores."""


@dataclass(frozen=True)
class KernelCheck:
    """How one call of a kernel compares with onnxruntime.

    Attributes:
        kernel: The kernel's name.
        family: The kernel family that made it.
        nodes: The ONNX nodes that the call computes.
        tensor: The ONNX tensor that it stores.
        error: Relative error of that tensor; 0 for integers that are equal, infinite where values cannot be compared.
        mismatch: What is wrong with it, if anything is.
    """

    kernel: str
    family: str
    nodes: tuple[str, ...]
    tensor: str
    error: float
    mismatch: Mismatch | None


def check_kernels(
    library: Library, graph: Graph, inputs: Mapping[str, Array], *, tolerance: float = KERNEL_TOLERANCE
) -> tuple[list[KernelCheck], dict[str, Array]]:
    """Run a library once and compare every tensor that a kernel stores.

    Args:
        library: Generated for this machine.
        graph: What it computes, in single operators: the graph before fusion. Tensors that are not in its main graph
            (those within branches, or between the kernels of one node) are not compared.
        inputs: A value for every input.
        tolerance: Largest relative error of a float tensor.

    Returns:
        The checks, in the order that the calls ran; and the outputs of the run.

    Raises:
        ModelError: onnxruntime refuses the graph or what the kernels stored.
        TargetError: The library is for another machine.
    """
    variables = {tensor.name: tensor for node in graph.gs.nodes for tensor in node.outputs}
    stored: dict[str, tuple[TracedStep, Array]] = {}

    def visit(step: TracedStep) -> None:
        for name in step.call.arguments[library.program.kernels[step.call.kernel].inputs :]:
            buffer = library.program.buffers[name]
            if buffer.tensor is not None and buffer.tensor in variables:
                # Several calls may write parts of one tensor: it is whole after the last.
                stored.pop(buffer.tensor, None)
                variable = variables[buffer.tensor]
                stored[buffer.tensor] = (step, _logical(buffer, step.arrays[name], variable.dtype, variable.shape))

    outputs = trace(library, inputs, visit)
    expected = _recomputed(graph, inputs, {name: value for name, (_, value) in stored.items()})
    checks = []
    for name, (step, value) in stored.items():
        wanted = expected[name]
        found = compare_outputs({name: value}, {name: wanted}, tolerance=tolerance, channel_tolerance=np.inf)
        mismatch = found[0] if found else None
        error = _error(value, wanted) if mismatch is None or mismatch.problem == "tensor" else np.inf
        family = library.program.kernels[step.call.kernel].family
        checks.append(KernelCheck(step.call.kernel, family, step.call.nodes, name, error, mismatch))
    return checks, outputs


def _logical(buffer: Buffer, array: Array, dtype: np.dtype[Any], shape: Iterable[int]) -> Array:
    """A copy of what a buffer holds, as the ONNX tensor."""
    if buffer.layout.block:  # [N, C / block, spatial..., block] to [N, C, spatial...]
        channels_first = np.moveaxis(array, -1, 2)
        merged = channels_first.reshape(array.shape[0], -1, *array.shape[2:-1])
        array = merged[:, : int(buffer.shape[1])]
    if array.dtype != dtype and buffer.dtype == np.dtype(dtype).name:  # a type that travels as its bits
        array = array.view(dtype)
    return np.array(array, dtype).reshape(tuple(shape))


def _recomputed(graph: Graph, inputs: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime computes for each tensor of `given` from the values of the others."""
    model = graph.to_model(weights=False)
    names = {name: f"{name}__given" for name in given}
    _redirect(model.graph.node, names)
    for name, value in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(names[name], kind, value.shape))
    feeds = {names[name]: value for name, value in given.items()}
    return evaluate(precise(model), {**graph.large_weights(), **inputs, **feeds}, list(given))


def _redirect(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Make nodes, those of subgraphs too, read other tensors. Names are unique in the whole model."""
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _redirect(attribute.g.node, names)


def _error(actual: Array, expected: Array) -> float:
    if np.array_equal(actual, expected, equal_nan=expected.dtype.kind in "fc"):
        return 0.0
    finite = np.isfinite(expected)
    return relative_error(np.where(finite, actual, 0), np.where(finite, expected, 0))
