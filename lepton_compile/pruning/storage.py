"""How many bytes a library and a run take by how many channels of each group are gone.

Both take the weights; a run takes what its arena holds besides, which is largest at one of its nodes: what was computed
before it and is read by it or after it. That node is found in the graph as it is. What lowering makes of it is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.folding import bytes_of
from lepton_compile.pruning.groups import Structure, weights_of
from lepton_compile.pruning.uses import Axes, Item, Use


def library_bytes(graph: Graph, structure: Structure, whole: float) -> Use:
    """What libraries take.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        whole: What the library of the whole graph takes.
    """
    return _use(structure, {each.name: each.values.nbytes for each in weights_of(graph)}, whole)


def run_bytes(graph: Graph, structure: Structure, whole: float) -> Use:
    """What runs take at their peak, weights included; arguments as for `library_bytes`."""
    weights = {each.name: each.values.nbytes for each in weights_of(graph)}
    return _use(structure, weights | _alive_at_the_peak(graph), whole)


def _use(structure: Structure, nbytes: Mapping[str, float], whole: float) -> Use:
    axes = Axes(structure)
    items = [Item.in_proportion(axes.of(name), amount) for name, amount in nbytes.items()]
    rest = whole - math.fsum(nbytes.values())
    items.append(Item((), np.array([1.0]), np.array([rest])))
    return Use(items, [len(group.channels) for group in structure.prunable])


def _alive_at_the_peak(graph: Graph) -> dict[str, float]:
    """The tensors that are held when most is, and their bytes."""
    last: dict[str, int] = {}
    for number, node in enumerate(graph.gs.nodes):
        last |= dict.fromkeys((tensor.name for tensor in (*node.inputs, *node.outputs)), number)
    last |= {tensor.name: len(graph.gs.nodes) for tensor in graph.gs.outputs}
    alive: dict[str, float] = {}
    peak: dict[str, float] = {}
    for number, node in enumerate(graph.gs.nodes):
        alive |= {tensor.name: bytes_of(tensor) for tensor in node.outputs if isinstance(tensor, gs.Variable)}
        if math.fsum(alive.values()) > math.fsum(peak.values()):
            peak = dict(alive)
        alive = {name: nbytes for name, nbytes in alive.items() if last[name] > number}
    return peak
