"""Weights that make up for removed channels, layer by layer in the order of the graph, without labels or gradients.

A layer that read x reads y, what is left of x and what the layers before made of it. Its weights become those with
which it comes nearest to what the original computes of x (`products.py`, `fitting.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.stages import HELD_BYTES, as_many_as_held, in_stages
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure, weights_of
from lepton_compile.pruning.products import Product, find_products
from lepton_compile.pruning.reestimation import Normalization, find_normalizations
from lepton_compile.rewriting.biases import add_more, add_to_outputs, correctable
from lepton_compile.rewriting.patterns import Uses

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Repair:
    """What layers of a pruned graph make up with.

    Attributes:
        weights: Their new weights, by the names of those that they replace, rounded so that `told` tells them exactly.
        offsets: What is added to the outputs of nodes, as `add_to_outputs` takes it.
    """

    weights: Mapping[str, Array]
    offsets: Mapping[str, tuple[float, ...]]


NOTHING = Repair({}, {})
"""Weights that are left as they are."""


def apply(repair: Repair, pruned: Graph) -> Graph:
    """Give the layers of a pruned graph, in place, what they make up with.

    Raises:
        ValueError: There are no such weights, or they are of another shape.
    """
    known = {weights.name: weights for weights in weights_of(pruned)}
    for name, values in repair.weights.items():
        if name not in known or tuple(known[name].shape) != values.shape:
            raise ValueError(f"there are no weights '{name}' of shape {values.shape}")
        known[name].values = values
    add_to_outputs(pruned, repair.offsets)
    return pruned


def find_repair(
    graph: Graph,
    pruned: Graph,
    structure: Structure,
    channels: Set[int],
    samples: Samples,
    held_bytes: int = HELD_BYTES,
) -> Repair:
    """What lets the layers of a pruned graph answer as the original's do.

    Args:
        graph: The original.
        pruned: What is left of it; it is changed.
        structure: What `find_groups` says of the original.
        channels: What is removed.
        samples: Inputs, at least one; of many, as many as memory is allowed for.
        held_bytes: What the inner tensors of each of both graphs may take.
    """
    facts = graph, pruned, structure, channels
    order = {node.name: place for place, node in enumerate(pruned.gs.nodes)}
    fitting: list[Product | Normalization] = [*find_products(*facts), *find_normalizations(*facts)]
    fitting.sort(key=lambda part: order[part.node.name])
    offsets = {
        name: np.zeros(count, np.float32)
        for name, count in correctable(pruned, [part.node.name for part in fitting]).items()
    }
    add_to_outputs(pruned, {name: values.tolist() for name, values in offsets.items()})
    names = list(dict.fromkeys(part.node.inputs[0].name for part in fitting))
    held = as_many_as_held(graph, names, samples, held_bytes)
    stages = (in_stages(each, names, held) for each in (graph, pruned))
    fresh_name = Uses(pruned).fresh_name
    weights: dict[str, Array] = {}
    for name, original, changed in zip(names, *stages, strict=True):
        for part in fitting:
            if part.node.inputs[0].name != name:
                continue
            fitted = part.fitted(graph, original, changed)
            if fitted is not None:
                part.weights.values, added = fitted
                weights[part.weights.name] = part.weights.values
                offsets[part.node.name] += added
                add_more(part.node, added, fresh_name)
    told_of = {part.node.name for part in fitting if part.weights.name in weights}
    return Repair(weights, {name: tuple(map(float, offsets[name])) for name in offsets if name in told_of})
