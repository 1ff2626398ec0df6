"""Trials: what a layer's output loses to a way of quantizing it, while all around it stays as it is.

Each trial is a copy of the layer beside it, that reads the layer's input through QuantizeLinear and DequantizeLinear;
only the square of the difference, and its mean for each output, leave the graph. So all trials of all layers take one
run for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.layers import Layer
from lepton_compile.quantization.rounding import followed
from lepton_compile.quantization.weights import rounded, spread, weight_scales
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]

# What the trials of one graph may hold in weights.
_WEIGHTS_BYTES = 256 << 20


@dataclass(frozen=True)
class Trial:
    """A way to quantize a layer.

    Attributes:
        layer: The layer.
        scale: Scale and zero point of its input; None: those of the range that it has in each run.
        smoothing: What each channel of the input is divided by before, and its weights multiplied with.
        rounding: How its weights are rounded if not to the nearest integers, as `rounding.told` says it.
    """

    layer: Layer
    scale: tuple[float, int] | None
    smoothing: tuple[float, ...] | None = None
    rounding: str | None = None


@dataclass(frozen=True)
class Loss:
    """What a layer's output loses.

    Attributes:
        error: Mean square of the difference over the mean square of the output.
        offsets: Mean of the difference for each output, as a number to add.
        corrected: `error` once the offsets are added.
        vectors: Over how many outputs these means are, each.
    """

    error: float
    offsets: tuple[float, ...]
    corrected: float
    vectors: int


def losses(graph: Graph, trials: Sequence[Trial], samples: Sequence[Mapping[str, Array]]) -> list[Loss]:
    """What is lost, for each trial.

    Args:
        graph: The graph that has the layers.
        trials: The trials.
        samples: Inputs of the graph, at least one.
    """
    sizes = {node.name: node.inputs[1].values.nbytes for node in graph.gs.nodes if _has_weights(node)}
    found: list[Loss] = []
    part: list[Trial] = []
    for trial in trials:
        if part and sum(sizes[each.layer.node] for each in part) > _WEIGHTS_BYTES:
            found += _losses(graph, part, samples)
            part = []
        part.append(trial)
    return found + (_losses(graph, part, samples) if part else [])


def _has_weights(node: gs.Node) -> bool:
    return len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant)


def _losses(graph: Graph, trials: Sequence[Trial], samples: Sequence[Mapping[str, Array]]) -> list[Loss]:
    copy = graph.copy()
    nodes = {node.name: node for node in copy.gs.nodes}
    outputs = [_add(copy, nodes[trial.layer.node], trial, number) for number, trial in enumerate(trials)]
    session = copy.session([name for names in outputs for name in names])
    sums: dict[str, Array] = {}
    for sample in samples:
        for name, value in session.run(sample).items():
            sums[name] = sums.get(name, 0.0) + value.astype(np.float64)
    found = []
    for trial, names in zip(trials, outputs, strict=True):
        square, power, offsets = (sums[name] / len(samples) for name in names)
        elements = math.prod(nodes[trial.layer.node].outputs[0].shape)
        found.append(_loss(square, power, offsets, len(samples) * elements // max(offsets.size, 1)))
    return found


def _loss(square: Array, power: Array, offsets: Array, vectors: int) -> Loss:
    per_output = offsets.reshape(-1)
    least = float(square) - float(np.mean(per_output**2))
    scale = float(power) or 1.0
    return Loss(float(square) / scale, tuple(map(float, per_output)), max(least, 0.0) / scale, vectors)


def _add(graph: Graph, node: gs.Node, trial: Trial, number: int) -> tuple[str, str, str]:
    """Add a trial; names of the mean squares of difference and output, and of the mean differences."""
    layer = trial.layer
    prefix = f"trial_{number}"
    weights = constant(node.inputs[1])
    assert weights is not None
    x = node.inputs[0]
    if trial.smoothing is not None:
        factors = np.array(trial.smoothing, np.float32)
        weights = weights * spread(factors, layer.weights_axis, weights.ndim)
        inverse = spread(1 / factors, 0, len(x.shape) - layer.channel_axis)
        x = _node(graph, "Mul", f"{prefix}_smooth", [x, _constant(f"{prefix}_inverse", inverse)])
    x = _node(graph, "DequantizeLinear", f"{prefix}_dequantize", _quantized(graph, prefix, x, trial))
    steps = weight_scales(weights, layer.output_axis)
    integers_of_weights = rounded(weights, steps, layer.output_axis)
    if trial.rounding is not None:
        integers_of_weights = followed(integers_of_weights, trial.rounding)
    weights = integers_of_weights.astype(np.float32) * spread(steps, layer.output_axis, weights.ndim)
    inputs = [x, _constant(f"{prefix}_weights", weights), *node.inputs[2:]]
    made = _node(graph, node.op, f"{prefix}_layer", inputs, attrs=dict(node.attrs))
    result = node.outputs[0]
    rank = len(result.shape)
    axis = 1 if node.op == "Conv" else rank - 1
    difference = _node(graph, "Sub", f"{prefix}_difference", [result, made])
    square = _node(graph, "Mul", f"{prefix}_square", [difference, difference])
    power = _node(graph, "Mul", f"{prefix}_power", [result, result])
    others = [place for place in range(rank) if place != axis]
    return (
        _mean(graph, f"{prefix}_error", square, list(range(rank))),
        _mean(graph, f"{prefix}_output", power, list(range(rank))),
        _mean(graph, f"{prefix}_offsets", difference, others),
    )


def _quantized(graph: Graph, prefix: str, x: gs.Tensor, trial: Trial) -> list[gs.Tensor]:
    """Integers, their scale and their zero point."""
    if trial.scale is None:
        names = (f"{prefix}_quantize", np.uint8), (f"{prefix}_scale", np.float32), (f"{prefix}_zero", np.uint8)
        made = [gs.Variable(name, np.dtype(dtype), None) for name, dtype in names]
        graph.gs.nodes.append(gs.Node("DynamicQuantizeLinear", f"{prefix}_range", {}, [x], made))
        return made
    factor, offset = trial.scale
    scale = _constant(f"{prefix}_scale", np.array(factor, np.float32))
    zero = _constant(f"{prefix}_zero", np.array(offset, np.uint8))
    return [_node(graph, "QuantizeLinear", f"{prefix}_quantize", [x, scale, zero], dtype=np.uint8), scale, zero]


def _mean(graph: Graph, name: str, x: gs.Tensor, axes: list[int]) -> str:
    inputs = [x, _constant(f"{name}_axes", np.array(axes, np.int64))]
    return str(_node(graph, "ReduceMean", name, inputs, attrs={"keepdims": 0}).name)


def _node(
    graph: Graph,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    *,
    attrs: Mapping[str, object] | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> gs.Variable:
    made = gs.Variable(name, np.dtype(dtype), None)
    graph.gs.nodes.append(gs.Node(op, name, dict(attrs or {}), inputs, [made]))
    return made


def _constant(name: str, values: Array) -> gs.Constant:
    return gs.Constant(name, np.ascontiguousarray(values))
