"""What restores, for each of its readers, so that every kernel reads short numbers and computes what they stand for.

    add(conv(d), d),  d = dequantize(q)   ->   add(conv(dequantize(q)), dequantize(q))

Integers are a quarter as long as what they stand for, and it takes no more than a multiply-add to compute that. A Cast
of bfloat16 numbers to float32 is a shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, scopes, summary
from lepton_compile.rewriting.quantization import is_restoring

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class Dequantization(Pass):
    """Give every reader a DequantizeLinear, or a Cast of bfloat16 to float32, of its own."""

    name = "dequantization"
    stage = Stage.FUSE
    after = ("attention", "gelu", "hard_swish", "layer_normalization", "silu", "softmax")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where several nodes read one."""
        found = [node.name for node, _ in _shared(graph)]
        if not found:
            return Decline("nothing that is restored is read by several nodes")
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
    """Each node that restores, with its readers, where there are several."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if is_restoring(node):
                readers = list({id(reader): reader for reader in node.outputs[0].outputs}.values())
                if len(readers) > 1:
                    yield node, readers
