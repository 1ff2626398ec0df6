"""Groups of channels: what can be removed from a model, and what stays for which reason.

A channel is all that has to be removed together: an output of a convolution with its bias, what normalizes it, and
everything that reads it. Channels that lie in the same axes of the same tensors are a group, of which any number can
be removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx
import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.pruning.channels import FIXED, Labels
from lepton_compile.pruning.transfers import label


@dataclass(frozen=True)
class Group:
    """Channels in the same places.

    Attributes:
        name: The first node that makes or reads them.
        channels: The label of each channel, in order.
        places: The tensors and axes that they lie in.
        frozen: Why they stay; "" where they may go.
    """

    name: str
    channels: tuple[int, ...]
    places: tuple[tuple[str, int], ...]
    frozen: str = ""


@dataclass(frozen=True)
class Structure:
    """What of a graph can be removed.

    Attributes:
        axes: The label of every index, by tensors and axes.
        groups: All groups, in the order of the graph.
    """

    axes: Mapping[str, Sequence[Labels]]
    groups: Sequence[Group]

    @property
    def prunable(self) -> list[Group]:
        """The groups whose channels may go."""
        return [group for group in self.groups if not group.frozen]

    def networkx(self, graph: Graph) -> networkx.Graph[str]:
        """Groups and the nodes that they go through, as a networkx graph.

        Nodes have the attribute `kind`, "group" or "node"; those of groups `channels`, how many there are, and
        `frozen`. An edge has `places`: the tensors of the node that have the group's channels, and their axes.
        """
        view: networkx.Graph[str] = networkx.Graph(name=graph.name)
        by_tensor: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for number, group in enumerate(self.groups):
            name = f"group {number}: {group.name}"
            view.add_node(name, kind="group", channels=len(group.channels), frozen=group.frozen)
            for tensor, axis in group.places:
                by_tensor[tensor].append((name, axis))
        for node in graph.gs.nodes:
            view.add_node(node.name, kind="node", op=node.op)
            for tensor in {each.name: each for each in (*node.inputs, *node.outputs)}:
                for name, axis in by_tensor[tensor]:
                    if not view.has_edge(name, node.name):
                        view.add_edge(name, node.name, places=[])
                    view.edges[name, node.name]["places"].append((tensor, axis))
        return view

    def share(self, graph: Graph) -> float:
        """What share of the weights lies in channels that may go."""
        free = np.array(sorted(channel for group in self.prunable for channel in group.channels), np.int64)
        total = prunable = 0.0
        for constant in weights_of(graph):
            if constant.name in self.axes and constant.values.dtype.kind == "f":
                left = np.prod([1 - np.isin(labels, free).mean() for labels in self.axes[constant.name]])
                prunable += float(1 - left) * constant.values.size
            total += constant.values.size if constant.values.dtype.kind == "f" else 0
        return prunable / (total or 1.0)


def weights_of(graph: Graph) -> list[gs.Constant]:
    """The constants that nodes of the main graph read, each once."""
    found = {
        tensor.name: tensor for node in graph.gs.nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)
    }
    return list(found.values())


def find_groups(graph: Graph) -> Structure:
    """Find the groups of channels of a graph.

    Args:
        graph: A graph whose shapes are known.
    """
    labelling = label(graph.gs)
    roots = {name: [labelling.channels.roots(labels) for labels in axes] for name, axes in labelling.axes.items()}
    places: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
    for name, axes in roots.items():
        for axis, labels in enumerate(axes):
            for root, count in zip(*np.unique(labels[labels != FIXED], return_counts=True), strict=True):
                places[int(root)][name, axis] = int(count)
    alike: dict[tuple[str, tuple[tuple[tuple[str, int], int], ...]], list[int]] = defaultdict(list)
    for root, where in places.items():
        alike[labelling.channels.reason(root) or "", tuple(where.items())].append(root)
    nodes: dict[str, str] = {}
    for node in graph.gs.nodes:
        for tensor in (*node.inputs, *node.outputs):
            nodes.setdefault(tensor.name, node.name)
    return Structure(
        roots,
        [
            Group(
                nodes.get(where[0][0][0], where[0][0][0]),
                tuple(sorted(channels)),
                tuple(place for place, _ in where),
                reason or ("it is one channel, which stays" if len(channels) == 1 else ""),
            )
            for (reason, where), channels in alike.items()
        ],
    )
