"""Rounding weights together where layers compute in int8: as trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.covariances import as_stored, by_inputs
from lepton_compile.model import Graph
from lepton_compile.quantization.moments import Reading, second_moments
from lepton_compile.quantization.observers import LEVELS
from lepton_compile.quantization.rounding import rounded_together, told
from lepton_compile.quantization.trials import Trial
from lepton_compile.quantization.weights import largest, rounded, spread, weight_scales
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]


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
        weights = constant(node.inputs[1])
        assert weights is not None
        if trial.smoothing is not None:
            weights = weights * spread(np.array(trial.smoothing, np.float32), layer.weights_axis, weights.ndim)
        scales = weight_scales(weights, layer.output_axis)
        nearest = rounded(weights, scales, layer.output_axis)
        steps = np.broadcast_to(spread(scales, layer.output_axis, weights.ndim), weights.shape)
        exact, worth, near = (by_inputs(node, each) for each in (weights, steps, nearest))
        together = rounded_together(exact, worth, near, largest(8), moments)
        integers = as_stored(node, together, weights.shape)
        if (integers != nearest).any():
            found.append(replace(trial, rounding=told(integers, nearest)))
    return found


def _reading(trial: Trial) -> Reading:
    """What a layer reads of a trial: integers, as what they stand for."""
    assert trial.scale is not None
    scale, zero = (np.float32(each) for each in trial.scale)

    def read(x: Array) -> Array:
        if trial.smoothing is not None:
            x = x / spread(np.array(trial.smoothing, np.float32), trial.layer.channel_axis, x.ndim)
        return np.asarray((np.clip(np.rint(x / scale) + zero, 0, LEVELS) - zero) * scale)

    return Reading(trial.layer, read)
