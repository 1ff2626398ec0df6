"""Recognise softmax spelled out: exp(x - max(x)) / sum(exp(x - max(x))) along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, is_operator, producer
from lepton_compile.rewriting.reductions import reduced_axes


@dataclass(frozen=True)
class Softmax(PatternFusion):
    """Recognise softmax spelled out with Exp and reductions."""

    name = "softmax"
    kind = "Softmax"

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The quotient and what it is computed by."""
        if not is_operator(node, "Div"):
            return ()
        exponential, total = producer(node.inputs[0]), producer(node.inputs[1])
        if not is_operator(exponential, "Exp") or not is_operator(total, "ReduceSum"):
            return ()
        difference = producer(exponential.inputs[0])
        if total.inputs[0] is not exponential.outputs[0] or not is_operator(difference, "Sub"):
            return ()
        maximum = producer(difference.inputs[1])
        if not is_operator(maximum, "ReduceMax") or maximum.inputs[0] is not difference.inputs[0]:
            return ()
        axes = reduced_axes(total)
        if axes is None or len(axes) != 1 or axes != reduced_axes(maximum):
            return ()
        return (maximum, difference, exponential, total, node)
