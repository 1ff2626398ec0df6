"""Calibration: from samples to the recipe that would quantize every layer, each in the way that its output loses least.

- The range of each group: that observer's whose quantization the layers' outputs suffer least from, as trials show.
- Smoothing (SmoothQuant; Xiao et al., 2022, arXiv:2211.10438; between layers it is cross-layer equalisation; Nagel et
  al., 2019, arXiv:1906.04721): y = (x / s) (s w), with s_c = max|x_c|^a / max|w_c|^(1 - a), where a channel of large
  values would leave the others few of the 256 steps. It costs a multiplication of each value, so it has to help.
- Bias correction (Nagel et al., 2019): what quantization takes from an output's mean is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.contract import Contract, Statistics
from lepton_compile.evaluation.histogram import Histogram
from lepton_compile.model import Graph
from lepton_compile.quantization.choice import Assignment
from lepton_compile.quantization.layers import Group, Layer, find_layers
from lepton_compile.quantization.observers import candidate_ranges, parameters
from lepton_compile.quantization.recipe import INT8, WEIGHT_BITS, Recipe
from lepton_compile.quantization.trials import Loss, Trial, losses
from lepton_compile.quantization.weight_only import candidates
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]

# How many samples the trials see.
_SAMPLES = 8
# Exponents of smoothing that are tried, and fractions of the range with each.
_EXPONENTS = 0.5, 0.7
_FRACTIONS = 1.0, 0.7
# What a treatment has to leave of the loss to be worth its cost.
_SMOOTHED = 0.7
_CORRECTED = 0.95


@dataclass(frozen=True)
class Calibrated:
    """A way to quantize every layer, and what each layer's output loses by it.

    Attributes:
        recipe: For all layers.
        losses: By the layers' names.
        observers: What chose the range of each group, by the groups' names.
        of_weights: What is added to the outputs of layers whose weights alone are quantized, by precision and name.
    """

    recipe: Recipe
    losses: Mapping[str, Loss]
    observers: Mapping[str, str]
    of_weights: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def restricted(self, precisions: Assignment, groups: Sequence[Group]) -> Recipe:
        """The recipe that gives layers these precisions."""
        recipe = self.recipe
        layers = {name for name, precision in precisions.items() if precision == INT8}
        sources = {
            source
            for group in groups
            if any(layer.node in layers for layer in group.layers)
            for source in group.sources
        }
        return Recipe(
            dict(precisions),
            {name: scale for name, scale in recipe.scales.items() if name in sources},
            {name: factors for name, factors in recipe.smoothing.items() if name in sources},
            {
                name: offsets
                for precision, corrections in ({INT8: recipe.corrections} | dict(self.of_weights)).items()
                for name, offsets in corrections.items()
                if precisions.get(name) == precision
            },
        )


@dataclass(frozen=True)
class _Way:
    """A way to quantize what a group of layers reads."""

    observer: str
    scale: float
    zero: int
    smoothing: tuple[float, ...] | None = None

    def trial(self, layer: Layer) -> Trial:
        return Trial(layer, self.scale, self.zero, self.smoothing)


def calibrate(graph: Graph, groups: Sequence[Group], contract: Contract) -> Calibrated:
    """Calibrate every layer of these groups.

    Args:
        graph: The graph.
        groups: What its layers read.
        contract: The contract, whose samples are read if they have not been.

    Raises:
        CalibrationError: The samples cannot be used.
    """
    statistics = contract.observe(graph, _channel_axes(graph, groups))
    weights = {node.name: constant(node.inputs[1]) for node in graph.gs.nodes if len(node.inputs) > 1}
    ways = [_ways(group, statistics, weights) for group in groups]
    trials = [
        (number, way, layer) for number, group in enumerate(groups) for way in ways[number] for layer in group.layers
    ]
    samples = [each.sample.inputs for each in contract.samples(_SAMPLES)]
    found = losses(graph, [way.trial(layer) for _, way, layer in trials], samples)
    by_way: dict[tuple[int, _Way], dict[str, Loss]] = {}
    for (number, way, layer), loss in zip(trials, found, strict=True):
        by_way.setdefault((number, way), {})[layer.node] = loss
    return _best(groups, [{way: by_way[number, way] for way in ways[number]} for number in range(len(groups))])


def corrections_of_weights(graph: Graph, contract: Contract) -> dict[str, dict[str, tuple[float, ...]]]:
    """What is to be added to the outputs of layers whose weights alone are quantized, by precision and name.

    Args:
        graph: The graph.
        contract: The contract, whose samples have been read.
    """
    layers = {layer.node: layer for layer in find_layers(graph)[0]}
    trials = {
        (precision, each.node): Trial(layers[each.node], None, bits=bits)
        for precision, bits in WEIGHT_BITS.items()
        for each in candidates(graph)
        if bits in each.bits and each.node in layers
    }
    samples = [each.sample.inputs for each in contract.samples(_SAMPLES)]
    found: dict[str, dict[str, tuple[float, ...]]] = {precision: {} for precision in WEIGHT_BITS}
    for (precision, name), loss in zip(trials, losses(graph, list(trials.values()), samples), strict=True):
        if loss.corrected < _CORRECTED * loss.error:
            found[precision][name] = loss.offsets
    return found


def _best(groups: Sequence[Group], tried: Sequence[Mapping[_Way, Mapping[str, Loss]]]) -> Calibrated:
    found: dict[str, Loss] = {}
    observers: dict[str, str] = {}
    scales: dict[str, tuple[float, int]] = {}
    smoothing: dict[str, tuple[float, ...]] = {}
    corrections: dict[str, tuple[float, ...]] = {}
    for group, ways in zip(groups, tried, strict=True):
        way = min(ways, key=lambda each: _total(ways[each]) / (_SMOOTHED if each.smoothing else 1.0))
        observers[group.name] = way.observer
        scales |= dict.fromkeys(group.sources, (way.scale, way.zero))
        if way.smoothing is not None:
            smoothing[group.name] = way.smoothing
        for layer in group.layers:
            loss = ways[way][layer.node]
            if loss.corrected < _CORRECTED * loss.error:
                corrections[layer.node] = loss.offsets
                loss = replace(loss, error=loss.corrected)
            found[layer.node] = loss
    layers = [layer.node for group in groups for layer in group.layers]
    return Calibrated(Recipe(dict.fromkeys(layers, INT8), scales, smoothing, corrections), found, observers)


def _total(by_layer: Mapping[str, Loss]) -> float:
    return sum(loss.error for loss in by_layer.values())


def _channel_axes(graph: Graph, groups: Sequence[Group]) -> dict[str, int]:
    """The axis of channels of every source; of one that is only moved to where it is read, the first."""
    axes = {layer.input: layer.channel_axis for group in groups for layer in group.layers}
    return {source: axes.get(source, 0) for group in groups for source in group.sources}


def _ways(group: Group, statistics: Mapping[str, Statistics], weights: Mapping[str, Array | None]) -> list[_Way]:
    histogram = Histogram()
    for source in group.sources:
        histogram.merge(statistics[source].histogram)
    ways = [_Way(each.observer, each.scale, each.zero) for each in candidate_ranges(histogram)]
    if not _can_be_smoothed(group, weights):
        return ways
    known = statistics[group.name]
    peaks = np.maximum(np.abs(known.lowest), np.abs(known.highest))
    of_weights = np.max([_peaks(weights[layer.node], layer) for layer in group.layers], axis=0)
    for exponent in _EXPONENTS:
        factors = _factors(peaks, of_weights, exponent)
        low, high = float((known.lowest / factors).min()), float((known.highest / factors).max())
        for fraction in _FRACTIONS:
            scale, zero = parameters(low * fraction, high * fraction)
            name = f"smoothed by {exponent:g}, {fraction:.0%} of the range"
            ways.append(_Way(name, scale, zero, tuple(map(float, factors))))
    return ways


def _can_be_smoothed(group: Group, weights: Mapping[str, Array | None]) -> bool:
    """Whether all layers read one tensor as it is, and each of its channels has weights of its own."""
    if len(group.sources) > 1 or any(layer.depthwise or layer.input != group.name for layer in group.layers):
        return False
    shapes = [(known.shape[layer.weights_axis]) for layer in group.layers if (known := weights[layer.node]) is not None]
    return len(set(shapes)) == 1


def _peaks(weights: Array | None, layer: Layer) -> Array:
    assert weights is not None
    others = tuple(place for place in range(weights.ndim) if place != layer.weights_axis)
    return np.asarray(np.abs(weights).max(axis=others))


def _factors(peaks: Array, of_weights: Array, exponent: float) -> npt.NDArray[np.float32]:
    """What each channel is divided by; 1 where it, or its weights, are zero; of geometric mean 1."""
    alive = (peaks > 0) & (of_weights > 0)
    logs = np.zeros(len(peaks))
    logs[alive] = exponent * np.log(peaks[alive]) - (1 - exponent) * np.log(of_weights[alive])
    logs[alive] -= logs[alive].mean() if alive.any() else 0.0
    return np.exp(np.clip(logs, -12, 12)).astype(np.float32)
