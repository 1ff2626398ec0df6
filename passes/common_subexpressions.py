"""Common subexpressions: nodes that compute the same from the same inputs become one.

    a = Relu(x); b = Relu(x)   ->   a = Relu(x), and what read b reads a

One sweep numbers the values of a scope: nodes with the same operator, attributes and input values get the same
number, so that whole equal chains are found at once. Small constants count as equal by value.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import subgraphs
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import ONNX_DOMAINS, Uses, is_operator, scopes, summary
from lepton_compile.target import Target

# Weights are told apart by identity: comparing them costs more than the few that are equal would save.
SMALL = 1024

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Compute what several nodes compute alike once."""

    name = "common_subexpressions"
    stage = Stage.CANONICALISE
    after = ("constant_folding", "no_operations")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where nodes compute the same."""
        uses = Uses(graph)
        found: list[str] = []
        refusals: list[str] = []
        for duplicate, original in _duplicates(graph):
            if why := _why_keep(uses, duplicate, original):
                refusals.append(f"{duplicate.name}: same as {original.name}, but {why}")
            else:
                found.append(duplicate.name)
        if not found:
            return Decline("no two nodes compute the same", tuple(refusals))
        return Proposal(self, f"{len(found)} nodes repeat what others compute: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Let the first of equal nodes stand in for the others."""
        uses = Uses(graph)
        for duplicate, original in list(_duplicates(graph)):
            if not _why_keep(uses, duplicate, original):
                uses.bypass(duplicate, _pairs(duplicate, original))
        return graph


def _pairs(duplicate: gs.Node, original: gs.Node) -> list[tuple[gs.Tensor, gs.Tensor]]:
    pairs = zip(duplicate.outputs, original.outputs, strict=True)
    return [(output, source) for output, source in pairs if not output.is_empty()]


def _why_keep(uses: Uses, duplicate: gs.Node, original: gs.Node) -> str:
    reasons = (uses.why_keep(duplicate, output, source) for output, source in _pairs(duplicate, original))
    return next(filter(None, reasons), "")


def _duplicates(graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Pairs of a node and the first one that computes the same, scope by scope, in the order of the nodes."""
    for scope in scopes(graph):
        first: dict[Hashable, gs.Node] = {}
        number: dict[int, Hashable] = {}  # value number of a tensor that repeats another
        for node in scope.nodes:
            key = _key(node, number)
            if key is None:
                continue
            original = first.setdefault(key, node)
            if original is not node:
                for output, source in _pairs(node, original):
                    number[id(output)] = id(source)
                yield node, original


def _key(node: gs.Node, number: dict[int, Hashable]) -> Hashable | None:
    """What the values of a node's outputs depend on; None where equal keys would not mean equal values."""
    if node.domain not in (*ONNX_DOMAINS, "ai.onnx.ml") or node.op in RANDOM:
        return None
    if is_operator(node, "Dropout") and len(node.inputs) > 2:
        return None
    if subgraphs(node):
        return None
    attributes = tuple((name, _attribute_key(value)) for name, value in sorted(node.attrs.items()))
    inputs = tuple(_tensor_key(tensor, number) for tensor in node.inputs)
    return (node.op, node.domain or "", attributes, inputs, tuple(t.is_empty() for t in node.outputs))


def _attribute_key(value: object) -> Hashable:
    if isinstance(value, gs.Constant):
        return _array_key(np.asarray(value.values))
    if isinstance(value, np.ndarray):
        return _array_key(value)
    if isinstance(value, gs.Node.AttributeRef):
        return ("reference", value.name)
    return (type(value).__name__, repr(value))


def _tensor_key(tensor: gs.Tensor, number: dict[int, Hashable]) -> Hashable:
    if tensor.is_empty():
        return ""
    if isinstance(tensor, gs.Constant) and np.prod(tensor.shape, dtype=np.int64) <= SMALL:
        return _array_key(np.asarray(tensor.values))
    return number.get(id(tensor), id(tensor))


def _array_key(array: np.ndarray) -> Hashable:
    content = repr(array.tolist()) if array.dtype == object else array.tobytes()
    return (str(array.dtype), array.shape, content)
