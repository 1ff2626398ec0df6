"""Rounding weights together: as trials where layers compute in int8, and for weights alone where it pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.layers import Layer, find_layers
from lepton_compile.quantization.moments import Reading, second_moments
from lepton_compile.quantization.observers import LEVELS
from lepton_compile.quantization.rounding import as_stored, by_inputs, costs, rounded_together, told
from lepton_compile.quantization.trials import Trial
from lepton_compile.quantization.weight_only import as_integers, candidates
from lepton_compile.quantization.weights import largest, rounded, spread, weight_scales
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]

PAYS = 0.9
"""What it has to leave of the loss, on samples that it was not fitted to: it takes room in plans."""


def rounded_trials(graph: Graph, trials: Sequence[Trial], samples: Sequence[Mapping[str, Array]]) -> list[Trial]:
    """These trials with weights rounded together, of those layers that this can be done for and changes.

    Args:
        graph: The graph that has the layers.
        trials: One for each layer.
        samples: What it is fitted to, at least one.
    """
    nodes = {node.name: node for node in graph.gs.nodes}
    by_layer = {trial.layer.node: trial for trial in trials}
    found = []
    for layer, moments in second_moments(graph, [_reading(trial) for trial in trials], samples):
        trial, node = by_layer[layer.node], nodes[layer.node]
        weights = _weights(node)
        if trial.smoothing is not None:
            weights = weights * spread(np.array(trial.smoothing, np.float32), layer.weights_axis, weights.ndim)
        scales = weight_scales(weights, layer.output_axis)
        nearest = rounded(weights, scales, layer.output_axis)
        steps = np.broadcast_to(spread(scales, layer.output_axis, weights.ndim), weights.shape)
        integers = _together(node, layer, weights, steps, nearest, largest(8), moments)
        if (integers != nearest).any():
            found.append(replace(trial, rounding=told(integers, nearest)))
    return found


def rounded_weights(
    graph: Graph, samples: Sequence[Mapping[str, Array]], judging: Sequence[Mapping[str, Array]]
) -> dict[int, dict[str, str]]:
    """How weights are rounded together where layers go on reading float32; by bits and layers, where it pays.

    Args:
        graph: The graph.
        samples: What it is fitted to, at least one.
        judging: What says whether it pays, at least one.
    """
    nodes = {node.name: node for node in graph.gs.nodes}
    able = {each.node: each.bits for each in candidates(graph)}
    readings = [Reading(layer, _as_it_is) for layer in find_layers(graph)[0] if layer.node in able]
    found: dict[int, dict[str, str]] = {}
    fitted, judged = (second_moments(graph, readings, each) for each in (samples, judging))
    for (layer, moments), (_, others) in zip(fitted, judged, strict=True):
        node, weights = nodes[layer.node], _weights(nodes[layer.node])
        for bits in set(able[layer.node]) - {16}:
            made = as_integers(node, weights, bits)
            integers = _together(node, layer, weights, made.steps, made.values, largest(bits), moments)
            losses = [
                costs(by_inputs(node, layer, weights - values * made.steps), others).sum()
                for values in (integers, made.values)
            ]
            if losses[0] < PAYS * losses[1]:
                found.setdefault(bits, {})[layer.node] = told(integers, made.values)
    return found


def _together(
    node: gs.Node, layer: Layer, weights: Array, steps: Array, nearest: Array, largest: int, moments: Array
) -> Array:
    """`rounded_together` of weights as they are stored."""
    exact, worth, near = (by_inputs(node, layer, each) for each in (weights, steps, nearest))
    return as_stored(node, layer, rounded_together(exact, worth, near, largest, moments), weights.shape)


def _reading(trial: Trial) -> Reading:
    """What a layer reads of a trial: integers, as what they stand for."""
    assert trial.scale is not None
    scale, zero = (np.float32(each) for each in trial.scale)

    def read(x: Array) -> Array:
        if trial.smoothing is not None:
            x = x / spread(np.array(trial.smoothing, np.float32), trial.layer.channel_axis, x.ndim)
        return np.asarray((np.clip(np.rint(x / scale) + zero, 0, LEVELS) - zero) * scale)

    return Reading(trial.layer, read)


def _as_it_is(x: Array) -> Array:
    return x


def _weights(node: gs.Node) -> Array:
    weights = constant(node.inputs[1])
    assert weights is not None
    return weights
