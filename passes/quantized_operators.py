"""Operators on quantized numbers, said as operators on what they stand for.

    QLinearConv(x, w, b)   ->   quantize(Conv(dequantize(x), dequantize(w), dequantize(b)))
    QLinearMatMul(a, b)    ->   quantize(MatMul(dequantize(a), dequantize(b)))

A bias counts in steps of the product of the two scales. So such models get the kernels that QDQ models get, where the
sums are the same integers. onnxruntime multiplies these by one combined scale, sx sw / sy, which is rounded otherwise
than the division of the sum's value by sy: what lies on the border between two integers may become the other one.
What onnxruntime adds to ONNX's operators is said in them when a model is imported (`lepton_compile.model.contributed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand, scopes, static_shape, summary

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class QuantizedOperators(Pass):
    """Say QLinearConv and QLinearMatMul with DequantizeLinear and QuantizeLinear."""

    name = "quantized_operators"
    stage = Stage.CANONICALISE

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where there is such an operator."""
        found = [node.name for node in _candidates(graph) if not _why_not(node)]
        refused = tuple(f"{node.name}: {_why_not(node)}" for node in _candidates(graph) if _why_not(node))
        if not found:
            return Decline("there is no QLinearConv or QLinearMatMul", refused)
        return Proposal(self, f"{len(found)} become QDQ: {summary(found)}", refused)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Say them so."""
        uses = Uses(graph)
        for node in list(_candidates(graph)):
            if not _why_not(node):
                _Spelling(node, uses).write()
        return graph


def _candidates(graph: Graph) -> Iterator[gs.Node]:
    for scope in scopes(graph):
        yield from (node for node in scope.nodes if is_operator(node, "QLinearConv", "QLinearMatMul"))


def _why_not(node: gs.Node) -> str:
    """Why an operator stays; "" if it does not."""
    if node.op == "QLinearConv":
        computed = any(constant(node.inputs[place]) is None for place in (1, 4))
        return "the scales that its bias counts in are computed" if computed and operand(node, 8) is not None else ""
    ranks = [len(static_shape(node.inputs[place]) or ()) for place in (1, 4)]
    return "" if max(ranks) <= 1 else "a scale has more than one axis"


class _Spelling:
    """What stands for one node, right behind it until that is removed."""

    def __init__(self, node: gs.Node, uses: Uses) -> None:
        self.node, self.uses = node, uses
        self.last = node

    def write(self) -> None:
        node = self.node
        rank = [len(static_shape(node.inputs[place]) or ()) for place in (0, 3)]
        if node.op == "QLinearConv":
            bias = [] if (values := operand(node, 8)) is None else [self.bias(values)]
            value = self.add("Conv", [self.dequantized(0), self.dequantized(3, axis=0), *bias], dict(node.attrs))
        else:
            left = self.dequantized(0, axis=max(rank[0] - 2, 0))
            value = self.add("MatMul", [left, self.dequantized(3, axis=max(rank[1] - 1, 0))])
        result = node.outputs[0]
        node.outputs.clear()  # what is added for it is its only producer
        self.add("QuantizeLinear", [value, *node.inputs[6:8]], result=result)
        self.uses.remove([node])

    def dequantized(self, first: int, **attributes: int) -> gs.Tensor:
        """What the integers at an input stand for; their scale and zero point are the next two."""
        return self.add("DequantizeLinear", self.node.inputs[first : first + 3], attributes)

    def bias(self, values: gs.Tensor) -> gs.Tensor:
        """The bias of a convolution."""
        scales = [constant(self.node.inputs[place]) for place in (1, 4)]
        assert scales[0] is not None and scales[1] is not None
        steps = np.asarray(scales[0].reshape(()) * scales[1], np.float32)
        scale = gs.Constant(self.uses.fresh_name(f"{values.name}_scale"), steps)
        return self.add("DequantizeLinear", [values, scale], {"axis": 0})

    def add(
        self,
        op: str,
        inputs: list[gs.Tensor],
        attributes: dict[str, Any] | None = None,
        result: gs.Tensor | None = None,
    ) -> gs.Tensor:
        """A new node behind the last one."""
        if result is None:
            result = gs.Variable(self.uses.fresh_name(f"{self.node.name}_{op}_output"))
        new = gs.Node(op, self.uses.fresh_name(f"{self.node.name}_{op}"), attributes or {}, list(inputs), [result])
        self.uses.insert_after(self.last, new)
        self.last = new
        return result
