"""Fusion of an operator that has kernels of its own with the element-wise operators behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.elementwise import chain_behind
from lepton_compile.rewriting.fusion import Fusion
from lepton_compile.rewriting.patterns import Uses, is_operator
from lepton_compile.rewriting.quantization import restored_for
from lepton_compile.rewriting.regions import Region, positions, why_not_fuse


@dataclass(frozen=True)
class AnchoredFusion(Fusion):
    """A pass that fuses an anchor with its epilogue: what its kernel can compute on the way to memory.

    Attributes:
        anchors: The operators that have such kernels.
    """

    anchors: ClassVar[tuple[str, ...]]

    def before(self, anchor: gs.Node, uses: Uses) -> list[gs.Node]:
        """Nodes whose value an anchor's kernel can compute as it reads it, in order; nothing else may read it."""
        return []

    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """Anchors with the element-wise nodes behind them; the last anchor has the first choice."""
        position = positions(graph)
        for scope in bodies(graph.gs):
            taken: set[int] = set()
            found: list[Region | str] = []
            for anchor in reversed(scope.nodes):
                if not is_operator(anchor, *self.anchors):
                    continue
                chain = chain_behind(anchor, uses, position, taken)
                found += reversed(chain.refusals)
                nodes = [*self.before(anchor, uses), *chain.nodes]
                nodes = [*restored_for(nodes, uses), *nodes]
                if len(nodes) == 1:
                    continue
                if why := why_not_fuse(uses, nodes):
                    found.append(f"{anchor.name}: {why}")
                else:
                    taken |= {id(node) for node in nodes}
                    found.append(Region(self.kind, anchor.name, tuple(nodes)))
            yield from reversed(found)
