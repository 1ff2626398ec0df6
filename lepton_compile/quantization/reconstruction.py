"""Weights of few bits that make up for what the layers before them lost, layer by layer in the order of the graph.

A layer that read x reads y, since the weights before it are rounded. Of all W' the one whose products are nearest to
the original's, and which stays near W where samples say little,

    E|y W' - x W|^2 + d |W' - W|^2 is least where (E[y'y] + d) W' = E[y'x] W + d W,

is what is rounded, its weights together (`rounding.py`): least squares from a few samples in closed form, as Li et al.
do for language models ("GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025,
arXiv:2504.02692).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.stages import in_stages, most_held
from lepton_compile.model import Graph
from lepton_compile.quantization.layers import Layer, find_layers
from lepton_compile.quantization.moments import can_be_taken, moments_between
from lepton_compile.quantization.rounding import as_stored, by_inputs, rounded_together, told
from lepton_compile.quantization.weight_only import as_integers
from lepton_compile.quantization.weights import largest
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]

# d, as a share of the mean square of what a layer reads.
_DAMPING = 0.3
# What is held of all samples at a time, of the original's tensors and of the others each.
_HELD_BYTES = 64 << 20
# Integers are kept by how they differ from the nearest ones, in a byte.
_FURTHEST = 127


def reconstructed(
    graph: Graph, approximate: Graph, bits: Mapping[str, int], samples: Sequence[Mapping[str, Array]]
) -> dict[str, str]:
    """How weights are rounded, as `rounding.told` says it, by layers.

    Args:
        graph: The graph.
        approximate: The same with some weights in few bits; it is changed.
        bits: The layers whose weights are rounded, each with how many bits they take.
        samples: Inputs of the graph, at least one; of many, as many as memory is allowed for.
    """
    exact = {node.name: node for node in graph.gs.nodes}
    rounded = {node.name: node for node in approximate.gs.nodes}
    layers = [layer for layer in find_layers(graph)[0] if layer.node in bits and can_be_taken(exact[layer.node])]
    names = list(dict.fromkeys(layer.input for layer in layers))
    some = samples[: max(1, _HELD_BYTES // max(1, most_held(graph, names)))]
    stages = zip(names, in_stages(graph, names, some), in_stages(approximate, names, some), strict=True)
    found = {}
    for name, original, changed in stages:
        for layer in layers:
            if layer.input == name:
                node = exact[layer.node]
                integers, text = _rounded(node, layer, bits[layer.node], original, changed)
                rounded[layer.node].inputs[1] = gs.Constant(f"{layer.node}_reconstructed", integers)
                found[layer.node] = text
    return found


def _rounded(
    node: gs.Node, layer: Layer, bits: int, original: Sequence[Array], changed: Sequence[Array]
) -> tuple[Array, str]:
    """What the integers of a layer stand for, and how they differ from the nearest ones."""
    weights = constant(node.inputs[1])
    assert weights is not None
    made, most = as_integers(node, weights, bits), largest(bits)
    moments, mixed = moments_between(node, changed, original)
    values = made.values.astype(np.int16)
    exact, steps, nearest = (by_inputs(node, layer, each) for each in (weights, made.steps, values))
    wanted = _least_squares(moments, mixed, exact)
    near = np.clip(np.rint(wanted / steps), -most, most)
    integers = rounded_together(wanted, steps, near, most, moments).astype(np.int16)
    integers = np.clip(integers, nearest - _FURTHEST, nearest + _FURTHEST)
    stored = as_stored(node, layer, integers, weights.shape).astype(made.values.dtype)
    return np.ascontiguousarray(stored * made.steps), told(stored, made.values)


def _least_squares(moments: Array, mixed: Array, weights: Array) -> npt.NDArray[np.float32]:
    """W' of each group of inputs."""
    damping = _DAMPING * np.diagonal(moments, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    damped = moments + np.where(damping > 0, damping, 1.0) * np.eye(moments.shape[1])
    # W' - W, so that weights that nothing moves stay what they are, exactly.
    moved = np.linalg.solve(damped, (mixed - moments).astype(np.float64) @ weights)
    return np.asarray(weights + moved, np.float32)
