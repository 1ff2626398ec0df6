"""How long a run takes by how many channels of each group are gone.

A step takes time by the share of its multiplications that is left, of what it computes in vectors by that of the
vectors. That is measured of a few graphs that are pruned alike everywhere, and between those it is on a line. What a
step multiplies is its weights; a step without weights goes by the elements that it computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.uses import Axes, Axis, Counts, Item, Use, channels_of, kept_of, left_of
from lepton_compile.rewriting.biases import RECURRENT
from lepton_compile.rewriting.patterns import constant

Steps = Mapping[str, float]

# Shares of the channels of each group that graphs are measured with.
_KEPT = 0.75, 0.5, 0.25
# Without weights, and channels lie in vectors.
_POOLS = "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"


def seconds_of(
    graph: Graph,
    structure: Structure,
    orders: Sequence[Order],
    units: Counts,
    lanes: int,
    measure: Callable[[Graph], Steps],
) -> Use:
    """What runs take, in seconds.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        orders: In which order channels go.
        units: How many channels of each group go at a time.
        lanes: How many float32 numbers a vector register holds.
        measure: Seconds of the steps of a graph, by the names of its nodes, a line each.
    """
    sizes = [len(order.channels) for order in orders]
    whole = measure(graph)
    measured: list[tuple[Sequence[float], Steps]] = []
    for share in _KEPT:
        removed = [
            size - max(unit, round(share * size / unit) * unit) if size > unit else 0
            for size, unit in zip(sizes, units, strict=True)
        ]
        pruned = remove(graph.copy(), structure, channels_of(orders, removed))
        measured.append((kept_of(removed, sizes), measure(pruned)))
    nodes, axes = {node.name: node for node in graph.gs.nodes}, Axes(structure)
    items = []
    for names, seconds in whole.items():
        node = _computes([nodes[name] for name in names.split("\n") if name in nodes])
        parts = [(axes.of(each, along, lanes), size) for each, along, size in _computed_with(node)] if node else []
        items += _items(parts or [((), 1)], names, seconds, measured)
    return Use(items, sizes)


def _items(
    parts: Sequence[tuple[tuple[Axis, ...], int]],
    names: str,
    seconds: float,
    measured: Sequence[tuple[Sequence[float], Steps]],
) -> list[Item]:
    """A step by what is left of each part of what it computes with; a part is its axes, and how large it is."""
    nodes = set(names.split("\n"))
    whole = sum(size for _, size in parts)
    known = [{1.0: seconds * size / whole} for _, size in parts]
    for kept, steps in measured:
        taken = math.fsum(each for others, each in steps.items() if nodes & set(others.split("\n")))
        left = [left_of(axes, kept) for axes, _ in parts]
        rest = math.fsum(share * size for share, (_, size) in zip(left, parts, strict=True))
        for of, share, (axes, size) in zip(known, left, parts, strict=True):
            if taken and axes:
                of[share] = min(taken * share * size / rest, of[1.0])
    return [_item(axes, of) for (axes, _), of in zip(parts, known, strict=True)]


def _item(axes: tuple[Axis, ...], known: dict[float, float]) -> Item:
    """A part by what is left of it, from seconds by such shares."""
    if axes:
        known.setdefault(0.0, 0.0)
    left = np.array(sorted(known))
    return Item(axes, left, np.maximum.accumulate([known[share] for share in left.tolist()]))


def _computes(nodes: Sequence[gs.Node]) -> gs.Node | None:
    """The node of a step that says how much it computes; None where its nodes are not the graph's."""
    if not nodes:
        return None
    weighty = [node for node in nodes if _weights(node) is not None]
    return max(weighty, key=lambda node: math.prod(node.inputs[1].shape), default=nodes[-1])


def _computed_with(node: gs.Node) -> list[tuple[str, int | None, int]]:
    """The tensors that say how much a node computes, which of their axes are computed in vectors, and their sizes."""
    if _weights(node) is None:
        return [(str(node.outputs[0].name), 1 if node.op in _POOLS else None, 1)]
    if node.op in RECURRENT:
        return [(str(each.name), None, math.prod(each.shape)) for each in node.inputs[1:3]]
    weights = node.inputs[1]
    along = {"Conv": 0, "Gemm": 0 if node.attrs.get("transB", 0) else 1, "ConvTranspose": 1}
    return [(str(weights.name), along.get(node.op, len(weights.shape) - 1), 1)]


def _weights(node: gs.Node) -> gs.Tensor | None:
    if len(node.inputs) > 1 and node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT):
        return node.inputs[1] if constant(node.inputs[1]) is not None else None
    return None
