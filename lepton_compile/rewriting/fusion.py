"""What the passes of the fuse stage share: they find regions, and say of the places they leave alone why."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, summary
from lepton_compile.rewriting.regions import Region, fuse, positions, why_not_fuse

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class Fusion(Pass):
    """A pass that replaces regions of one kind by calls of functions.

    Attributes:
        kind: The kind of its regions.
    """

    stage = Stage.FUSE
    kind: ClassVar[str]

    @abstractmethod
    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """The disjoint regions to fuse, scope by scope in the order of the graph, and refusals between them."""

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where there is a region."""
        found = list(self.find(graph, Uses(graph)))
        regions = [item.name for item in found if isinstance(item, Region)]
        refusals = tuple(dict.fromkeys(item for item in found if isinstance(item, str)))
        if not regions:
            return Decline(f"there is nothing to fuse into {self.kind}", refusals)
        places = "1 place becomes one call" if len(regions) == 1 else f"{len(regions)} places become one call each"
        return Proposal(self, f"{places}: {summary(regions)}", refusals)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fuse them."""
        uses = Uses(graph)
        regions = [item for item in self.find(graph, uses) if isinstance(item, Region)]
        fuse(graph, uses, regions)
        return graph


@dataclass(frozen=True)
class PatternFusion(Fusion):
    """A pass that recognises a function spelled out in operators."""

    @abstractmethod
    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The nodes of the pattern that `node` is the distinctive part of, in any order; none if it is not.

        Whether they can be fused is not asked here.
        """

    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """Regions where the pattern occurs and nothing outside uses its inner values."""
        position = positions(graph)
        taken: set[int] = set()
        for scope in bodies(graph.gs):
            for node in scope.nodes:
                unique = {id(part): part for part in self.match(node, graph, uses)}
                if not unique or not taken.isdisjoint(unique):
                    continue
                nodes = tuple(sorted(unique.values(), key=lambda part: position[id(part)]))
                if why := why_not_fuse(uses, nodes):
                    yield f"{nodes[-1].name}: {why}"
                else:
                    taken |= unique.keys()
                    yield Region(self.kind, nodes[-1].name, nodes)
