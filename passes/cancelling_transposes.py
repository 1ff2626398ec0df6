"""Cancelling transposes: a Transpose of a Transpose becomes one, or none.

    Transpose(Transpose(x, p), q) = Transpose(x, [p[i] for i in q])

The inner one stays as long as others read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.pairs import PairMerging
from lepton_compile.rewriting.passes import Stage
from lepton_compile.rewriting.patterns import Uses, is_operator, producer, scopes


@dataclass(frozen=True)
class CancellingTransposes(PairMerging):
    """Compose transposes that follow each other; those that cancel disappear."""

    name = "cancelling_transposes"
    stage = Stage.CANONICALISE
    after = ("no_operations",)

    nothing = "no Transpose reads a Transpose"
    merged = "compose"
    undone = "cancels"

    def pairs(self, graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
        """Transposes with the Transpose that they read, whose ranks are known."""
        for scope in scopes(graph):
            for node in scope.nodes:
                if is_operator(node, "Transpose"):
                    inner = producer(node.inputs[0])
                    if is_operator(inner, "Transpose") and all(_permutation(t) is not None for t in (node, inner)):
                        yield node, inner

    def why_keep(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> str:
        """Only a pair that cancels takes a tensor away."""
        if not _is_identity(_composed(outer, inner)):
            return ""
        return uses.why_keep(outer, outer.outputs[0], inner.inputs[0])

    def merge(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> None:
        """Compose the permutations."""
        permutation = _composed(outer, inner)
        if _is_identity(permutation):
            uses.bypass(outer, [(outer.outputs[0], inner.inputs[0])])
        else:
            outer.inputs[0] = inner.inputs[0]
            outer.attrs["perm"] = permutation


def _permutation(node: gs.Node) -> list[int] | None:
    if "perm" in node.attrs:
        return [int(axis) for axis in node.attrs["perm"]]
    shape = node.inputs[0].shape
    return None if shape is None else list(reversed(range(len(shape))))


def _composed(outer: gs.Node, inner: gs.Node) -> list[int]:
    first, second = _permutation(inner), _permutation(outer)
    assert first is not None and second is not None
    return [first[axis] for axis in second]


def _is_identity(permutation: list[int]) -> bool:
    return permutation == list(range(len(permutation)))
