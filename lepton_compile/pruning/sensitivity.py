"""How much a whole model's answers suffer from the channels of each group.

What a group's channels cost the layers that read them says nothing of what becomes of that in the layers behind. What
answers lose when half of the group goes does, once the layers that read it make up for what they can. So costs are what
that half costs together, and are parted among channels by what they cost the layers that read them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.metrics import channel_axis, shares
from lepton_compile.evaluation.stages import HELD_BYTES, as_many_as_held, in_stages
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.optimizer import multiply_adds
from lepton_compile.pruning.products import Product, find_products
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import Repair, apply

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# How many samples tell what answers lose: at least, at most, and as many as so many multiply-adds allow.
_SAMPLES = 4, 64
_MULTIPLY_ADDS = 2.0**34
# How many vectors a layer is fitted with for each of its inputs, from how many samples at least, and how many
# multiply-adds those may take.
_VECTORS, _FEWEST = 8, 96
_FITTING = 2.0**36


@dataclass(frozen=True)
class _Halved:
    """A graph without half of one group.

    Attributes:
        channels: Those that are gone.
        pruned: What is left.
        products: What its layers multiply that read them.
        weights: What makes up for them, as far as it is known, as of a `Repair`.
        offsets: The same.
    """

    channels: frozenset[int]
    pruned: Graph
    products: Sequence[Product]
    weights: dict[str, Array] = field(default_factory=dict)
    offsets: dict[str, tuple[float, ...]] = field(default_factory=dict)


def by_answers(
    graph: Graph, structure: Structure, orders: Sequence[Order], samples: Samples, held_bytes: int = HELD_BYTES
) -> list[Order]:
    """The same orders, with costs that can be compared between groups.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        orders: The order of each group whose channels may go.
        samples: Inputs of the graph.
        held_bytes: What its inner tensors may take, of all samples together.
    """
    work = max(multiply_adds(graph), 1.0)
    distance = -(-len(samples) // int(np.clip(_MULTIPLY_ADDS / work, *_SAMPLES)))
    judging = samples[::distance]
    # What is fitted to samples shows on others what it is worth.
    fitting = [sample for number, sample in enumerate(samples) if number % distance] or judging
    halves = [_halved(graph, structure, order) for order in orders]
    enough = max((_enough(each) for half in halves for each in half.products), default=1)
    most = int(np.clip(enough, len(judging), max(_FITTING / work, len(judging))))
    _fit(graph, structure, halves, fitting[:most], held_bytes)
    exact = _answers(graph, judging)
    found = []
    for order, half in zip(orders, halves, strict=True):
        if half.channels:
            answers = _answers(apply(Repair(half.weights, half.offsets), half.pruned), judging)
            # Where nothing tells a group's channels apart, all cost the same.
            costs = order.costs if math.fsum(order.costs[: len(half.channels)]) > 0 else (1.0,) * len(order.costs)
            scale = _difference(answers, exact) / math.fsum(costs[: len(half.channels)])
            order = replace(order, costs=tuple(scale * cost for cost in costs))
        found.append(order)
    return found


def _halved(graph: Graph, structure: Structure, order: Order) -> _Halved:
    channels = frozenset(order.channels[: len(order.channels) // 2])
    pruned = remove(graph.copy(), structure, channels)
    reading = [each for each in find_products(graph, pruned, structure, channels) if each.loses_inputs]
    return _Halved(channels, pruned, reading)


def _enough(product: Product) -> int:
    """How many samples a layer is fitted with."""
    return max(_FEWEST, math.ceil(_VECTORS * product.inputs / product.vectors))


def _fit(graph: Graph, structure: Structure, halves: Sequence[_Halved], samples: Samples, held_bytes: int) -> None:
    """Find what makes up for each group.

    What the layers that read a group's channels read besides is as it was, so one pass over the original serves all.
    """
    reading: dict[str, list[tuple[_Halved, Product]]] = defaultdict(list)
    for half in halves:
        for product in half.products:
            reading[product.node.inputs[0].name].append((half, product))
    names = [tensor.name for node in graph.gs.nodes for tensor in node.outputs if tensor.name in reading]
    held = as_many_as_held(graph, names, samples, held_bytes)
    for name, values in zip(names, in_stages(graph, names, held), strict=True):
        for half, product in reading[name]:
            gone = sorted(half.channels)
            kept = [np.flatnonzero(np.isin(labels, gone, invert=True)) for labels in structure.axes[name]]
            original = values[: _enough(product)]
            fitted = product.fitted(graph, original, [value[np.ix_(*kept)] for value in original])
            if fitted is not None:
                half.weights[product.weights.name], added = fitted
                before = np.array(half.offsets.get(product.node.name, 0.0))
                half.offsets[product.node.name] = tuple(map(float, before + added))


def _answers(graph: Graph, samples: Samples) -> list[Mapping[str, Array]]:
    session = graph.session()
    return [session.run(sample) for sample in samples]


def _difference(answers: Sequence[Mapping[str, Array]], exact: Sequence[Mapping[str, Array]]) -> float:
    """Mean squares of the differences over variances, of the output that has the largest; a mean over its channels.

    Channels may have units of their own, as boxes and scores in one output do: each counts by its own variance, and one
    that hardly varies, so that it is but noise, by 1 at most.
    """
    found = 0.0
    for name, first in exact[0].items():
        if first.dtype.kind == "f" and first.size:
            ones, others = (_by_channel([each[name] for each in every]) for every in (answers, exact))
            squares, variance = np.square(ones - others).mean(axis=1), others.var(axis=1)
            found = max(found, float(shares(squares, variance).mean()))
    return found


def _by_channel(values: Sequence[Array]) -> npt.NDArray[np.float64]:
    """All that each channel is of an output in all samples."""
    if values[0].ndim < 2:
        return np.concatenate([value.reshape(1, -1) for value in values], axis=1, dtype=np.float64)
    axis = channel_axis(values[0].shape)
    rows = [np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1) for value in values]
    return np.concatenate(rows, axis=1, dtype=np.float64)
