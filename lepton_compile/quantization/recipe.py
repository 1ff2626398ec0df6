"""A recipe: everything that is decided about how a graph is quantized, and the rewriting that follows it.

It holds statistics alone, no sample, so that it can stand in a plan and be followed again without any data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lepton_compile.model import Graph
from lepton_compile.quantization.dynamic import quantize_dynamically
from lepton_compile.quantization.insertion import Insertion
from lepton_compile.quantization.layers import Layer, find_layers
from lepton_compile.quantization.narrowing import narrow
from lepton_compile.quantization.weight_only import make_weight_only
from lepton_compile.rewriting.biases import add_to_outputs

INT8, DYNAMIC_INT8, BFLOAT16 = "int8", "dynamic int8", "bfloat16"
"""What a layer computes in: weights and what it reads are of this type, sums are not. Ranges of what is read in int8
are known, or each run's own."""
INT16_WEIGHTS, INT8_WEIGHTS, INT4_WEIGHTS = "int16 weights", "int8 weights", "int4 weights"
WEIGHT_BITS: Mapping[str, int] = {INT16_WEIGHTS: 16, INT8_WEIGHTS: 8, INT4_WEIGHTS: 4}
"""What a layer's weights are kept in while it computes in float32."""
PRECISIONS = (INT8, DYNAMIC_INT8, BFLOAT16, *WEIGHT_BITS)


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized.

    Attributes:
        precisions: Of `PRECISIONS`, by the names of the layers; the others stay as they are.
        scales: Scale and zero point of what layers of int8 read, by the sources of their groups.
        smoothing: What each channel of a source is divided by before it is quantized, where it is; the weights that are
            multiplied with it make up for that.
        corrections: What is added to each output of a layer, for the mean of what quantization takes from it; as
            `add_to_outputs` takes it.
        rounding: How weights of layers in integers are rounded if not to the nearest ones, as `rounding.told` says it.
    """

    precisions: Mapping[str, str]
    scales: Mapping[str, tuple[float, int]]
    smoothing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    rounding: Mapping[str, str] = field(default_factory=dict)

    def having(self, precision: str) -> list[str]:
        """The layers of one precision."""
        return [name for name, each in self.precisions.items() if each == precision]


def follow(recipe: Recipe, graph: Graph) -> Graph:
    """Quantize a graph, in place.

    Raises:
        ValueError: It names layers or tensors that the graph does not have, precisions that there are not, or how other
            weights are rounded.
    """
    if unknown := set(recipe.precisions.values()) - set(PRECISIONS):
        raise ValueError(f"there is no precision '{min(unknown)}'; there are {', '.join(PRECISIONS)}")
    known = {layer.node: layer for layer in find_layers(graph)[0]}
    chosen = recipe.having(INT8)
    dynamic = recipe.having(DYNAMIC_INT8)
    if missing := [name for name in (*chosen, *dynamic) if name not in known]:
        raise ValueError(f"there is no layer '{missing[0]}' to quantize")
    layers = [known[name] for name in chosen]
    add_to_outputs(graph, recipe.corrections)
    insertion = Insertion(graph, frozenset(chosen), recipe.scales)
    for layer in layers:
        _follow_layer(recipe, layer, insertion)
    axes = {layer.input: layer.channel_axis for layer in layers}
    for name in recipe.scales:
        insertion.quantize_tensor(name, _floats(recipe.smoothing.get(name)), axes.get(name, 0))
    narrow(graph, recipe.having(BFLOAT16))
    # Behind the others, which have all but layers read what they round.
    smoothing = {name: np.array(factors, np.float32) for name, factors in recipe.smoothing.items()}
    quantize_dynamically(graph, [known[name] for name in dynamic], smoothing)
    bits = {name: bits for each, bits in WEIGHT_BITS.items() for name in recipe.having(each)}
    make_weight_only(graph, bits, rounding=recipe.rounding)
    return graph


def _follow_layer(recipe: Recipe, layer: Layer, insertion: Insertion) -> None:
    if (factors := _floats(recipe.smoothing.get(layer.input))) is not None:
        insertion.scale_weights(layer, factors)
    insertion.quantize_weights(layer, recipe.rounding.get(layer.node))


def _floats(values: tuple[float, ...] | None) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
    return None if values is None else np.array(values, np.float32)
