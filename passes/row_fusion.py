"""Fuse what one kernel computes row by row: softmax, normalisations, reductions, and the element-wise around them.

    relu(layer_normalization(x + y))   ->   Rows_n(x, y)

Inside are values of the result's own shape, and those that reductions leave of its rows; any other smaller value would
be computed over and over. There is at most one normalisation: a second one would compute the first for each of its own
reductions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.elementwise import computed_for, is_elementwise
from lepton_compile.rewriting.fusion import Fusion
from lepton_compile.rewriting.patterns import Uses, constant, has_output, is_operator, producer, static_shape
from lepton_compile.rewriting.quantization import restored_for
from lepton_compile.rewriting.reductions import reduced_axes
from lepton_compile.rewriting.regions import Region, kind_of, positions

_NORMALISATIONS = (
    *("Hardmax", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization"),
    *("MeanVarianceNormalization", "RMSNormalization", "Softmax"),
)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
# Every reduction goes over the row again, and computes again what stands before it.
_MAXIMUM_PASSES = 3
_KINDS = ("LayerNormalization", "Softmax")


@dataclass(frozen=True)
class RowFusion(Fusion):
    """Fuse reductions and normalisations with the element-wise operators around them."""

    name = "row_fusion"
    kind = "Rows"
    after = ("attention", "elementwise_fusion")

    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """The largest regions with one output and a reduction, from the last nodes of each scope to the first."""
        position = positions(graph)
        taken: set[int] = set()
        for scope in bodies(graph.gs):
            found: list[Region] = []
            for last in reversed(scope.nodes):
                if id(last) in taken or not _belongs(last):
                    continue
                passes = _passes(last)

                def fits(node: gs.Node, last: gs.Node) -> bool:
                    nonlocal passes
                    if passes + _passes(node) > _MAXIMUM_PASSES or not _fits(node, last):
                        return False
                    passes += _passes(node)
                    return True

                nodes, _ = computed_for(last, uses, position, _belongs, fits)
                reduces = any(not is_elementwise(node) for node in nodes)
                nodes = [*restored_for(nodes, uses), *nodes]
                if len(nodes) > 1 and reduces:
                    taken |= {id(node) for node in nodes}
                    found.append(Region(self.kind, last.name, tuple(nodes)))
            yield from reversed(found)


def _passes(node: gs.Node) -> int:
    """How often a row is gone over to reduce it."""
    return 2 if _normalises(node) else 1 if _reduces(node) else 0


def _belongs(node: gs.Node) -> bool:
    return is_elementwise(node) or _normalises(node) or _reduces(node)


def _normalises(node: gs.Node) -> bool:
    if any(has_output(node, index) for index in range(1, len(node.outputs))):
        return False
    return is_operator(node, *_NORMALISATIONS) or kind_of(node) in _KINDS


def _reduces(node: gs.Node) -> bool:
    """Whether a node is a reduction that leaves axes of one element."""
    return is_operator(node, *_REDUCTIONS) and bool(reduced_axes(node))


def _fits(node: gs.Node, last: gs.Node) -> bool:
    own, whole = (static_shape(tensor) for tensor in (node.outputs[0], _row_tensor(last)))
    if own is None or whole is None or len(own) != len(whole):
        return False
    return own == whole or _is_left_by_reductions(node, whole)


def _row_tensor(last: gs.Node) -> gs.Tensor:
    """The tensor whose rows are walked: the result, or what is reduced to it."""
    return last.inputs[0] if _reduces(last) else last.outputs[0]


def _is_left_by_reductions(node: gs.Node, whole: tuple[int, ...]) -> bool:
    """Whether all that a node is computed from are reductions of tensors of this shape, and constants."""
    if _reduces(node):
        return static_shape(node.inputs[0]) == whole
    if not is_elementwise(node):
        return False
    sources = [tensor for tensor in node.inputs if not tensor.is_empty() and constant(tensor) is None]
    makers = [producer(tensor) for tensor in sources]
    return bool(makers) and all(maker is not None and _is_left_by_reductions(maker, whole) for maker in makers)
