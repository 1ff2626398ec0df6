"""Recognise GELU, in its exact form and its approximation by tanh (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

0.5 x (1 + erf(x / sqrt(2)))
0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, is_operator, producer, same_type
from lepton_compile.rewriting.polynomial import polynomial

_TANH_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@dataclass(frozen=True)
class Gelu(PatternFusion):
    """Recognise GELU spelled out with Erf or Tanh."""

    name = "gelu"
    kind = "Gelu"

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The nodes that compute GELU up to `node`."""
        if not is_operator(node, "Mul", "Div", "Add"):
            return ()
        whole = polynomial(node.outputs[0])
        if whole is None or len(whole.symbols) != 2:
            return ()
        for x, gate in (whole.symbols, whole.symbols[::-1]):
            function = producer(gate)
            if not is_operator(function, "Erf", "Tanh") or not same_type(x, node.outputs[0]):
                continue
            if not whole.equals((0.5, (x,)), (0.5, (x, gate))):
                continue
            argument = polynomial(function.inputs[0])
            expected: list[tuple[float, tuple[gs.Tensor, ...]]] = [(math.sqrt(0.5), (x,))]
            if is_operator(function, "Tanh"):
                expected = [(_TANH_SCALE, (x,)), (_TANH_SCALE * _CUBIC, (x, x, x))]
            if argument is not None and argument.equals(*expected):
                return (*whole.nodes, function, *argument.nodes)
        return ()
