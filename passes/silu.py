"""Recognise SiLU, which is x sigmoid(x), also called Swish (Elfwing et al., 2017, arXiv:1702.03118)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, is_operator, producer


@dataclass(frozen=True)
class SiLU(PatternFusion):
    """Recognise x * sigmoid(x)."""

    name = "silu"
    kind = "SiLU"

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The product and its Sigmoid."""
        if is_operator(node, "Mul"):
            for x, gate in (node.inputs, node.inputs[::-1]):
                sigmoid = producer(gate)
                if is_operator(sigmoid, "Sigmoid") and sigmoid.inputs[0] is x:
                    return (sigmoid, node)
        return ()
