"""Fuse what is left of element-wise operators: chains, and graphs of several that end in one value.

Only values of the result's own shape are computed inside: a smaller one, broadcast, would be computed over and over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.elementwise import computed_for, is_elementwise
from lepton_compile.rewriting.fusion import Fusion
from lepton_compile.rewriting.patterns import Uses
from lepton_compile.rewriting.quantization import restored_for
from lepton_compile.rewriting.regions import Region, positions


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
                nodes, refusals = computed_for(last, uses, position)
                found += reversed([why for node, why in refusals if id(node) not in refused])
                refused |= {id(node) for node, _ in refusals}
                nodes = [*restored_for(nodes, uses), *nodes]
                if len(nodes) > 1:
                    taken |= {id(node) for node in nodes}
                    found.append(Region(self.kind, last.name, tuple(nodes)))
            yield from reversed(found)
