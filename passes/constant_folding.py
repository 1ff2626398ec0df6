"""Constant folding: compute at compile time what depends on no input.

Import has folded what was constant in the model as it came; this pass folds what other passes make constant. What is
left as it is, and why, is said in `lepton_compile.model.folding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.folding import QUANTIZATION, RANDOM, SHAPE_READERS, fold_constants
from lepton_compile.model.traversal import subgraphs
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import ONNX_DOMAINS, Uses, is_operator, static_shape, summary
from lepton_compile.target import Target


@dataclass(frozen=True)
class ConstantFolding(Pass):
    """Compute what depends on no input at compile time."""

    name = "constant_folding"
    stage = Stage.CANONICALISE

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where a node reads nothing but constants."""
        found = list(_constant_nodes(graph))
        if not found:
            return Decline("every node depends on an input")
        return Proposal(self, f"{len(found)} nodes depend on no input: {summary(found)}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fold them."""
        fold_constants(graph)
        return graph


def _constant_nodes(graph: Graph) -> Iterator[str]:
    """Names of nodes whose value is known, in the main graph and in branch and loop bodies."""
    uses = Uses(graph)
    for node in graph.nodes():
        if node.domain not in ONNX_DOMAINS or node.op in RANDOM or node.op in QUANTIZATION:
            continue
        if is_operator(node, "Identity") and uses.is_output(node.outputs[0]):
            continue  # how an output that is constant is written
        if is_operator(node, *SHAPE_READERS):
            known = static_shape(node.inputs[0]) is not None
        else:
            known = all(tensor.is_empty() or isinstance(tensor, gs.Constant) for tensor in node.inputs)
            # A body may read what is not constant, even where the node itself reads nothing else.
            known = known and (is_operator(node, "If") or not subgraphs(node))
        if known:
            yield node.name
