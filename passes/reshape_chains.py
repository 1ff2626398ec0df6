"""Reshape chains: of several nodes that only give the same elements another shape, one is left, or none.

    Reshape(Reshape(x, s), t) = Reshape(x, t)

Reshape, Flatten, Squeeze and Unsqueeze do that, and so does a Transpose that moves no axis longer than 1 past another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.pairs import PairMerging
from lepton_compile.rewriting.passes import Stage
from lepton_compile.rewriting.patterns import Uses, is_operator, producer, same_type, scopes, static_shape


@dataclass(frozen=True)
class ReshapeChains(PairMerging):
    """Let one Reshape do what a chain of Reshape, Flatten, Squeeze and Unsqueeze does."""

    name = "reshape_chains"
    stage = Stage.CANONICALISE
    after = ("cancelling_transposes",)

    nothing = "no two nodes in a row change the shape alone"
    merged = "become one"
    undone = "undoes"

    def pairs(self, graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
        """Nodes that change the shape alone with one that does so before."""
        for scope in scopes(graph):
            for node in scope.nodes:
                if _keeps_order(node):
                    inner = producer(node.inputs[0])
                    if inner is not None and _keeps_order(inner):
                        yield node, inner

    def why_keep(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> str:
        """Only a pair that gives the first shape again takes a tensor away."""
        source, output = inner.inputs[0], outer.outputs[0]
        return uses.why_keep(outer, output, source) if same_type(source, output) else ""

    def merge(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> None:
        """Let one Reshape do what both did."""
        source, output = inner.inputs[0], outer.outputs[0]
        if same_type(source, output):
            uses.bypass(outer, [(output, source)])
        else:
            shape = np.array(static_shape(output), dtype=np.int64)
            outer.inputs = [source, gs.Constant(uses.fresh_name(f"{outer.name}_shape"), shape)]
            outer.op, outer.attrs = "Reshape", {}


def _keeps_order(node: gs.Node) -> bool:
    """Whether the elements stay in order and both shapes are known; a 0 would mean another thing in a Reshape."""
    if not is_operator(node, "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"):
        return False
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if before is None or after is None or 0 in after:
        return False
    if not is_operator(node, "Transpose"):
        return True
    permutation = [int(axis) for axis in node.attrs.get("perm", reversed(range(len(before))))]
    moved = [axis for axis in permutation if before[axis] != 1]
    return moved == sorted(moved)
