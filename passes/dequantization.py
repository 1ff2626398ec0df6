"""A DequantizeLinear for each of its readers, so that every kernel reads the integers and computes what they stand for.

    add(conv(d), d),  d = dequantize(q)   ->   add(conv(dequantize(q)), dequantize(q))

Integers are a quarter as long as what they stand for, and it takes no more than a multiply-add to compute that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, is_operator, scopes, summary

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class Dequantization(Pass):
    """Give every reader a DequantizeLinear of its own."""

    name = "dequantization"
    stage = Stage.FUSE

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where several nodes read one."""
        found = [node.name for node, _ in _shared(graph)]
        if not found:
            return Decline("no DequantizeLinear is read by several nodes")
        return Proposal(self, f"copy {len(found)} for each of their readers: {summary(found)}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Copy them."""
        uses = Uses(graph)
        for node, readers in list(_shared(graph)):
            made = node.outputs[0]
            for reader in readers[1:]:
                copy = gs.Variable(uses.fresh_name(made.name), made.dtype, made.shape)
                name = uses.fresh_name(node.name)
                uses.insert_after(node, gs.Node(node.op, name, dict(node.attrs), list(node.inputs), [copy]))
                for place, tensor in enumerate(reader.inputs):
                    if tensor is made:
                        reader.inputs[place] = copy
        return graph


def _shared(graph: Graph) -> Iterator[tuple[gs.Node, list[gs.Node]]]:
    """Each DequantizeLinear with its readers, where there are several."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if is_operator(node, "DequantizeLinear"):
                readers = list({id(reader): reader for reader in node.outputs[0].outputs}.values())
                if len(readers) > 1:
                    yield node, readers
