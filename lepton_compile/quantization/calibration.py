"""Calibration: from samples to the recipe that would quantize every layer, each in the way that its output loses least.

- The range of each group: that observer's whose quantization the layers' outputs suffer least from, as trials show.
- Smoothing (SmoothQuant; Xiao et al., 2022, arXiv:2211.10438; between layers it is cross-layer equalisation; Nagel et
  al., 2019, arXiv:1906.04721): y = (x / s) (s w), with s_c = max|x_c|^a / max|w_c|^(1 - a), where a channel of large
  values would leave the others few of the 256 steps. It costs a multiplication of each value, so it has to help.
- Bias correction (Nagel et al., 2019): what quantization takes from an output's mean is added to it.
- Rounding weights together (`rounding.py`), fitted to other samples than those that judge it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.contract import Contract, Statistics
from lepton_compile.evaluation.covariances import FEWEST_VECTORS
from lepton_compile.evaluation.histogram import Histogram
from lepton_compile.model import Graph
from lepton_compile.quantization.choice import Assignment
from lepton_compile.quantization.layers import Group, Layer
from lepton_compile.quantization.observers import candidate_ranges, parameters
from lepton_compile.quantization.recipe import DYNAMIC_INT8, INT8, WEIGHT_BITS, Recipe
from lepton_compile.quantization.reconstruction import NEAREST, Reconstruction
from lepton_compile.quantization.refinement import rounded_trials
from lepton_compile.quantization.trials import Loss, Trial, losses
from lepton_compile.rewriting.patterns import constant

Array = npt.NDArray[Any]
Found = TypeVar("Found")

TRIAL_SAMPLES = 8
"""How many samples the trials see; rounding is fitted to others."""
_FITTED = 32
# Exponents of smoothing that are tried, and fractions of the range with each.
_EXPONENTS = 0.5, 0.7
_FRACTIONS = 1.0, 0.7
# Of how many values the extremes of a channel have to be, for smoothing.
_VALUES = 256
# What a treatment has to leave of the loss to be worth its cost.
_SMOOTHED = 0.7
_CORRECTED = 0.95
# The same of a range that other samples are likely to exceed: what is clipped of them is more than trials show.
_CLIPPED = 0.5
# The same of rounding weights together, which takes room in plans.
_PAYS = 0.9


@dataclass(frozen=True)
class Calibrated:
    """A way to quantize every layer, and what each layer's output loses by it.

    Attributes:
        recipe: For all layers.
        losses: By the layers' names.
    """

    recipe: Recipe
    losses: Mapping[str, Loss]

    def restricted(self, precisions: Assignment, groups: Sequence[Group], made_up: Reconstruction = NEAREST) -> Recipe:
        """The recipe that gives layers these precisions.

        Args:
            precisions: By the layers' names.
            groups: What layers read.
            made_up: How weights of few bits under float32 make up for what is lost.
        """
        recipe = self.recipe
        layers = {name for name, precision in precisions.items() if precision == INT8}
        reconstructed = {name for name, precision in precisions.items() if precision in WEIGHT_BITS}

        def read_in(*allowed: str) -> set[str]:
            reading = (group for group in groups if any(precisions.get(each.node) in allowed for each in group.layers))
            return {source for group in reading for source in group.sources}

        sources, smoothed = read_in(INT8), read_in(INT8, DYNAMIC_INT8)
        return Recipe(
            dict(precisions),
            {name: scale for name, scale in recipe.scales.items() if name in sources},
            {name: factors for name, factors in recipe.smoothing.items() if name in smoothed},
            _of(layers, recipe.corrections) | _of(reconstructed, made_up.corrections),
            _of(layers, recipe.rounding) | _of(reconstructed, made_up.rounding),
        )


def _of(layers: Set[str], found: Mapping[str, Found]) -> dict[str, Found]:
    return {name: each for name, each in found.items() if name in layers}


@dataclass(frozen=True)
class _Way:
    """A way to quantize what a group of layers reads."""

    scale: float
    zero: int
    smoothing: tuple[float, ...] | None = None
    clips: bool = False

    @property
    def has_to_leave(self) -> float:
        """What share of another way's loss this has to leave to be better."""
        return _SMOOTHED if self.smoothing is not None else _CLIPPED if self.clips else 1.0

    def trial(self, layer: Layer) -> Trial:
        return Trial(layer, (self.scale, self.zero), self.smoothing)


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
    judging, fitting = _samples(contract)
    found = losses(graph, [way.trial(layer) for _, way, layer in trials], judging)
    by_way: dict[tuple[int, _Way], dict[str, Loss]] = {}
    for (number, way, layer), loss in zip(trials, found, strict=True):
        by_way.setdefault((number, way), {})[layer.node] = loss
    best = _best(groups, [{way: by_way[number, way] for way in ways[number]} for number in range(len(groups))])
    return _rounded_together(graph, groups, best, fitting, judging) if fitting else best


def _samples(contract: Contract) -> tuple[list[Mapping[str, Array]], list[Mapping[str, Array]]]:
    """Those that trials see, and others; none of those that are held out."""
    judging = contract.samples(TRIAL_SAMPLES)
    fitting = contract.samples(_FITTED, but=judging)
    return [each.sample.inputs for each in judging], [each.sample.inputs for each in fitting]


def _rounded_together(
    graph: Graph,
    groups: Sequence[Group],
    found: Calibrated,
    fitting: Sequence[Mapping[str, Array]],
    judging: Sequence[Mapping[str, Array]],
) -> Calibrated:
    """With weights rounded together where it pays."""
    recipe = found.recipe
    trials = [
        Trial(layer, recipe.scales[group.name], recipe.smoothing.get(group.name))
        for group in groups
        for layer in group.layers
    ]
    tried = rounded_trials(graph, trials, fitting)
    corrections, rounding, left = dict(recipe.corrections), dict(recipe.rounding), dict(found.losses)
    for trial, loss in zip(tried, losses(graph, tried, judging), strict=True):
        name = trial.layer.node
        settled, offsets = _settled(loss)
        if trial.rounding is None or settled.error >= _PAYS * left[name].error:
            continue
        left[name], rounding[name] = settled, trial.rounding
        corrections.pop(name, None)
        if offsets is not None:
            corrections[name] = offsets
    return replace(found, recipe=replace(recipe, corrections=corrections, rounding=rounding), losses=left)


def _best(groups: Sequence[Group], tried: Sequence[Mapping[_Way, Mapping[str, Loss]]]) -> Calibrated:
    found: dict[str, Loss] = {}
    scales: dict[str, tuple[float, int]] = {}
    smoothing: dict[str, tuple[float, ...]] = {}
    corrections: dict[str, tuple[float, ...]] = {}
    for group, ways in zip(groups, tried, strict=True):
        way = min(ways, key=lambda each: _total(ways[each]) / each.has_to_leave)
        scales |= dict.fromkeys(group.sources, (way.scale, way.zero))
        if way.smoothing is not None:
            smoothing[group.name] = way.smoothing
        for layer in group.layers:
            found[layer.node], offsets = _settled(ways[way][layer.node])
            if offsets is not None:
                corrections[layer.node] = offsets
    layers = [layer.node for group in groups for layer in group.layers]
    return Calibrated(Recipe(dict.fromkeys(layers, INT8), scales, smoothing, corrections), found)


def _settled(loss: Loss) -> tuple[Loss, tuple[float, ...] | None]:
    """What is lost, and what is added to outputs where it helps."""
    if loss.corrected < _CORRECTED * loss.error and loss.vectors >= FEWEST_VECTORS:
        return replace(loss, error=loss.corrected), loss.offsets
    return loss, None


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
    ends = [end for source in group.sources for end in statistics[source].ends]
    ranges = candidate_ranges(histogram, ends)
    widest = max(each.scale for each in ranges)
    ways = [_Way(each.scale, each.zero, clips=each.scale < widest) for each in ranges]
    known = statistics[group.name]
    if not _can_be_smoothed(group, weights, known):
        return ways
    peaks = np.maximum(np.abs(known.lowest), np.abs(known.highest))
    of_weights = np.max([_peaks(weights[layer.node], layer) for layer in group.layers], axis=0)
    for exponent in _EXPONENTS:
        factors = _factors(peaks, of_weights, exponent)
        low, high = float((known.lowest / factors).min()), float((known.highest / factors).max())
        for fraction in _FRACTIONS:
            scale, zero = parameters(low * fraction, high * fraction)
            ways.append(_Way(scale, zero, tuple(map(float, factors))))
    return ways


def _can_be_smoothed(group: Group, weights: Mapping[str, Array | None], statistics: Statistics) -> bool:
    """Whether all layers read one tensor as it is, along one axis, and each of its channels has weights of its own.

    The largest values of channels end up in the plan. Of few values they would tell what a sample was.
    """
    if len(group.sources) > 1 or any(layer.depthwise or layer.input != group.name for layer in group.layers):
        return False
    if len({layer.channel_axis for layer in group.layers}) > 1 or statistics.values_of_a_channel < _VALUES:
        return False
    shapes = [known.shape[layer.weights_axis] for layer in group.layers if (known := weights[layer.node]) is not None]
    return set(shapes) == {len(statistics.lowest)}


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
