"""Passes that make one node of two, where one reads the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal
from lepton_compile.rewriting.patterns import Uses, summary
from lepton_compile.target import Target


@dataclass(frozen=True)
class PairMerging(Pass):
    """Merge an outer node with the inner one that it reads; the inner one stays as long as others read it.

    Attributes:
        nothing: Why the pass declines where there is no pair.
        merged: What pairs do: "compose".
        undone: What an outer node does to an inner one whose effect it takes back: "cancels".
    """

    nothing: ClassVar[str]
    merged: ClassVar[str]
    undone: ClassVar[str]

    @abstractmethod
    def pairs(self, graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
        """Outer nodes with the inner node that each reads."""

    @abstractmethod
    def why_keep(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> str:
        """Why a pair has to stay; empty if it need not."""

    @abstractmethod
    def merge(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> None:
        """Let the outer node do what both did, or remove it."""

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where there are pairs."""
        uses = Uses(graph)
        found: list[str] = []
        refusals: list[str] = []
        for outer, inner in self.pairs(graph):
            if why := self.why_keep(uses, outer, inner):
                refusals.append(f"{outer.name}: {self.undone} {inner.name}, but {why}")
            else:
                found.append(f"{inner.name} and {outer.name}")
        if not found:
            return Decline(self.nothing, tuple(refusals))
        return Proposal(self, f"{len(found)} pairs {self.merged}: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Merge them, the first of a chain first."""
        uses = Uses(graph)
        for outer, inner in list(self.pairs(graph)):
            # An earlier pair may have cancelled, and this one's inner node with it.
            if not any(node is inner for node in outer.inputs[0].inputs) or self.why_keep(uses, outer, inner):
                continue
            self.merge(uses, outer, inner)
            if not inner.outputs[0].outputs and not uses.is_output(inner.outputs[0]):
                uses.remove([inner])
        return graph
