"""A recipe: everything that is decided about how a graph is quantized, and the rewriting that follows it.

It holds statistics alone, no sample, so that it can stand in a plan and be followed again without any data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lepton_compile.model import Graph
from lepton_compile.quantization.insertion import Insertion
from lepton_compile.quantization.layers import Layer, find_layers


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized.

    Attributes:
        layers: Names of the layers that compute in integers.
        scales: Scale and zero point of what they read, by the sources of their groups.
        smoothing: What each channel of a source is divided by before it is quantized, where it is; the weights that are
            multiplied with it make up for that.
        corrections: What is added to each output of a layer, for the mean of what quantization takes from it.
    """

    layers: tuple[str, ...]
    scales: Mapping[str, tuple[float, int]]
    smoothing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def follow(recipe: Recipe, graph: Graph) -> Graph:
    """Quantize a graph, in place.

    Raises:
        ValueError: It names layers or tensors that the graph does not have.
    """
    known = {layer.node: layer for layer in find_layers(graph)[0]}
    if missing := [name for name in recipe.layers if name not in known]:
        raise ValueError(f"there is no layer '{missing[0]}' to quantize")
    layers = [known[name] for name in recipe.layers]
    insertion = Insertion(graph, frozenset(recipe.layers), recipe.scales)
    for layer in layers:
        _follow_layer(recipe, layer, insertion)
    axes = {layer.input: layer.channel_axis for layer in layers}
    for name in recipe.scales:
        insertion.quantize_tensor(name, _floats(recipe.smoothing.get(name)), axes.get(name, 0))
    return graph


def _follow_layer(recipe: Recipe, layer: Layer, insertion: Insertion) -> None:
    if (factors := _floats(recipe.smoothing.get(layer.input))) is not None:
        insertion.scale_weights(layer, factors)
    if (correction := _floats(recipe.corrections.get(layer.node))) is not None:
        insertion.add_to_outputs(layer, correction)
    insertion.quantize_weights(layer)


def _floats(values: tuple[float, ...] | None) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
    return None if values is None else np.array(values, np.float32)
