"""Cancelling quantizations: quantizing again what was dequantized with the same scale and zero point.

    quantize(dequantize(q)) = q

Exact for integers of up to 16 bits: ((q - z) s) / s is within a rounding of q - z, and becomes it. A Cast of bfloat16
numbers to float32 and back is taken away as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.pairs import PairMerging
from lepton_compile.rewriting.passes import Stage
from lepton_compile.rewriting.patterns import Uses, producer, scopes
from lepton_compile.rewriting.quantization import is_narrowing, is_restoring, quantization_of


@dataclass(frozen=True)
class CancellingQuantizations(PairMerging):
    """Remove a QuantizeLinear that takes back a DequantizeLinear."""

    name = "cancelling_quantizations"
    stage = Stage.QUANTIZE
    after = ("early_quantization", "quantized_movement")

    nothing = "no QuantizeLinear takes back a DequantizeLinear"
    merged = "cancel"
    undone = "cancels"

    def pairs(self, graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
        """Each QuantizeLinear with the DequantizeLinear of the same parameters that it reads."""
        for scope in scopes(graph):
            for node in scope.nodes:
                inner = producer(node.inputs[0]) if is_narrowing(node) else None
                if is_restoring(inner):
                    known = quantization_of(node)
                    if known is not None and known == quantization_of(inner):
                        yield node, inner

    def why_keep(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> str:
        """The integers have to be able to stand in for the result."""
        return uses.why_keep(outer, outer.outputs[0], inner.inputs[0])

    def merge(self, uses: Uses, outer: gs.Node, inner: gs.Node) -> None:
        """Let the integers stand in."""
        uses.bypass(outer, [(outer.outputs[0], inner.inputs[0])])
