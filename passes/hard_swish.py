"""Recognise HardSwish, which is x clip(x + 3, 0, 6) / 6 (Howard et al., 2019, arXiv:1905.02244).

The factor 1/6 may stand anywhere, and the gate may be a Clip, a HardSigmoid, or Min and Max.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.fusion import PatternFusion
from lepton_compile.rewriting.patterns import Uses, is_operator, operand, producer, same_type
from lepton_compile.rewriting.polynomial import number, polynomial


@dataclass(frozen=True)
class HardSwish(PatternFusion):
    """Recognise x * clip(x + 3, 0, 6) / 6."""

    name = "hard_swish"
    kind = "HardSwish"

    def match(self, node: gs.Node, graph: Graph, uses: Uses) -> Sequence[gs.Node]:
        """The nodes that compute HardSwish up to `node`."""
        output = node.outputs[0] if node.outputs else None
        if not is_operator(node, "Mul", "Div") or output is None or output.dtype is None or output.dtype.kind != "f":
            return ()
        whole = polynomial(output)
        if whole is None or len(whole.symbols) != 2:
            return ()
        for x, gate in (whole.symbols, whole.symbols[::-1]):
            if not same_type(x, output):
                continue
            # The gate goes from 0 to `height`, and the whole divides it by that.
            height, nodes = _gate(gate, x)
            if nodes and whole.equals((1 / height, (x, gate))):
                return (*whole.nodes, *nodes)
        return ()


def _gate(gate: gs.Tensor, x: gs.Tensor) -> tuple[float, Sequence[gs.Node]]:
    """How high a gate clip(height (x / 6 + 1 / 2), 0, height) of `x` goes, and its nodes; no nodes if it is none."""
    node = producer(gate)
    if is_operator(node, "HardSigmoid") and node.inputs[0] is x:
        slope, offset = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        is_same = math.isclose(slope, 1 / 6, rel_tol=1e-3) and math.isclose(offset, 0.5, rel_tol=1e-3)
        return 1.0, (node,) if is_same else ()
    line, height, nodes = _clipped(gate)
    ramp = None if line is None else polynomial(line)
    if ramp is None or height <= 0 or not ramp.equals((height / 6, (x,)), (height / 2, ())):
        return 1.0, ()
    return height, (*nodes, *ramp.nodes)


def _clipped(tensor: gs.Tensor) -> tuple[gs.Tensor | None, float, Sequence[gs.Node]]:
    """What is clipped to between 0 and a number, the number, and the nodes that do it; None if it is not that."""
    node = producer(tensor)
    if is_operator(node, "Clip"):
        low, high = number(operand(node, 1)), number(operand(node, 2))
        return (node.inputs[0], high, (node,)) if low == 0 and high is not None else (None, 0, ())
    if not is_operator(node, "Min", "Max"):
        return None, 0, ()
    inner = next((part for part in map(producer, node.inputs) if is_operator(part, "Min", "Max")), None)
    if inner is None or inner.op == node.op or len(node.inputs) != 2 or len(inner.inputs) != 2:
        return None, 0, ()
    bounds = {part.op: value for part in (node, inner) for value in map(number, part.inputs) if value is not None}
    lines = [part for part in inner.inputs if number(part) is None]
    if bounds.get("Max") != 0 or "Min" not in bounds or len(lines) != 1:
        return None, 0, ()
    return lines[0], bounds["Min"], (inner, node)
