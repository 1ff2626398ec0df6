"""Fuse what is left of element-wise operators: chains, and graphs of several that end in one value.

Only values of the result's own shape are computed inside: a smaller one, broadcast, would be computed over and over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.elementwise import MAXIMUM_NODES, is_elementwise
from lepton_compile.rewriting.fusion import Fusion
from lepton_compile.rewriting.patterns import Uses, producer, static_shape
from lepton_compile.rewriting.regions import Region, positions

Refusal = tuple[gs.Node, str]


@dataclass(frozen=True)
class ElementWiseFusion(Fusion):
    """Fuse chains of element-wise operators."""

    name = "elementwise_fusion"
    kind = "ElementWise"
    after = ("matmul_fusion",)

    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """The largest regions with one output, from the last nodes of each scope to the first."""
        position = positions(graph)
        taken: set[int] = set()
        refused: set[int] = set()
        for scope in bodies(graph.gs):
            found: list[Region | str] = []
            for last in reversed(scope.nodes):
                if id(last) in taken or not is_elementwise(last):
                    continue
                nodes, refusals = _region(last, uses, position)
                found += reversed([why for node, why in refusals if id(node) not in refused])
                refused |= {id(node) for node, _ in refusals}
                if len(nodes) > 1:
                    taken |= {id(node) for node in nodes}
                    found.append(Region(self.kind, last.name, tuple(nodes)))
            yield from reversed(found)


def _region(last: gs.Node, uses: Uses, position: Mapping[int, int]) -> tuple[list[gs.Node], list[Refusal]]:
    """The nodes that are computed for `last` alone, in the order of the graph, and those that are not, with why.

    Producers are looked at from the last to the first: what reads one has been looked at before it.
    """
    nodes: list[gs.Node] = []
    inside: set[int] = set()
    seen = {id(last)}
    refusals: list[Refusal] = []
    waiting: list[tuple[int, gs.Node]] = [(-position[id(last)], last)]
    while waiting:
        _, node = heapq.heappop(waiting)
        if node is not last and (why := _why_not(node, last, uses, inside)):
            refusals.append((node, f"{node.name}: {why}"))
            continue
        if len(nodes) == MAXIMUM_NODES:
            break
        nodes.append(node)
        inside.add(id(node))
        for tensor in node.inputs:
            source = producer(tensor)
            if source is not None and id(source) not in seen and uses.scope(source) is uses.scope(last):
                seen.add(id(source))
                if is_elementwise(source):
                    heapq.heappush(waiting, (-position[id(source)], source))
    return nodes[::-1], refusals


def _why_not(node: gs.Node, last: gs.Node, uses: Uses, inside: set[int]) -> str:
    (output,) = (tensor for tensor in node.outputs if not tensor.is_empty())
    if uses.is_output(output):
        return f"'{output.name}' is an output as well"
    for reader in output.outputs:
        if id(reader) not in inside:
            return f"'{output.name}' is used by {reader.name} as well"
    if static_shape(output) is None or static_shape(output) != static_shape(last.outputs[0]):
        return f"'{output.name}' is broadcast on the way to {last.name}"
    return ""
