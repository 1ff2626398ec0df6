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
        of = axes.of(*_computed_with(node), lanes) if node else ()
        items.append(_item(of, names, seconds, measured))
    return Use(items, sizes)


def _item(
    axes: tuple[Axis, ...], names: str, seconds: float, measured: Sequence[tuple[Sequence[float], Steps]]
) -> Item:
    """A step by what is left of what it computes with."""
    known = {1.0: seconds}
    nodes = set(names.split("\n"))
    for kept, steps in measured if axes else ():
        taken = math.fsum(each for others, each in steps.items() if nodes & set(others.split("\n")))
        if taken:
            known[left_of(axes, kept)] = min(taken, seconds)
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


def _computed_with(node: gs.Node) -> tuple[str, int | None]:
    """The tensor that says how much a node computes, and which of its axes is computed in vectors."""
    if _weights(node) is None:
        return str(node.outputs[0].name), 1 if node.op in _POOLS else None
    name, rank = str(node.inputs[1].name), len(node.inputs[1].shape)
    if node.op == "Conv":
        return name, 0
    if node.op == "Gemm":
        return name, 0 if node.attrs.get("transB", 0) else 1
    return name, {"MatMul": rank - 1, "ConvTranspose": 1}.get(node.op)


def _weights(node: gs.Node) -> gs.Tensor | None:
    if len(node.inputs) > 1 and node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN"):
        return node.inputs[1] if constant(node.inputs[1]) is not None else None
    return None
