"""Fuse the dequantization of what an operator reads, and the quantization of what it gives, with the operator.

    quantize(average(dequantize(q)))   ->   Quantized_n(q)

Convolutions and products are fused with theirs before. What is left are pooling, reductions, normalisations, resizing
and element-wise regions: their kernels read bytes and write bytes, and nothing of four bytes lies in memory between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import bodies
from lepton_compile.rewriting.elementwise import is_elementwise
from lepton_compile.rewriting.fusion import Fusion
from lepton_compile.rewriting.patterns import Uses, is_operator
from lepton_compile.rewriting.quantization import restored_for
from lepton_compile.rewriting.regions import Region, kind_of, why_not_fuse

_OPERATORS = (
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Hardmax", "LayerNormalization", "LogSoftmax"),
    *("MaxPool", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
    *("Resize", "Softmax"),
)
_KINDS = ("ElementWise", "Gelu", "HardSwish", "LayerNormalization", "Rows", "SiLU", "Softmax")


@dataclass(frozen=True)
class QuantizedFusion(Fusion):
    """Fuse operators with the dequantization in front and the quantization behind."""

    name = "quantized_fusion"
    kind = "Quantized"
    after = ("convolution_fusion", "matmul_fusion", "elementwise_fusion", "row_fusion")

    def find(self, graph: Graph, uses: Uses) -> Iterator[Region | str]:
        """An operator or region, what dequantizes for it alone, and what quantizes its result."""
        taken: set[int] = set()
        for scope in bodies(graph.gs):
            found: list[Region] = []
            for node in reversed(scope.nodes):
                if id(node) in taken or not _belongs(node):
                    continue
                nodes = [*restored_for([node], uses), node, *_quantization_of(node, uses)]
                if len(nodes) > 1 and not why_not_fuse(uses, nodes) and not any(id(each) in taken for each in nodes):
                    taken |= {id(each) for each in nodes}
                    found.append(Region(self.kind, node.name, tuple(nodes)))
            yield from reversed(found)


def _belongs(node: gs.Node) -> bool:
    return is_operator(node, *_OPERATORS) or kind_of(node) in _KINDS or is_elementwise(node)


def _quantization_of(node: gs.Node, uses: Uses) -> list[gs.Node]:
    """The QuantizeLinear that reads the result of a node alone."""
    made = node.outputs[0]
    readers = list(made.outputs)
    alone = len(readers) == 1 and not uses.is_output(made) and is_operator(readers[0], "QuantizeLinear")
    return readers if alone and is_elementwise(readers[0]) else []
