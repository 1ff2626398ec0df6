"""bfloat16: the first half of a float32, with as large a range and 8 bits of mantissa.

    y = conv(x, w, b)   ->   y = conv(float32(bfloat16(x)), W, b),   W = float32(bfloat16(w))

Products of two such numbers are exact in float32, and sums are of float32. Known weights are written as float32 numbers
that bfloat16 holds exactly, so they need no operator.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.channels import is_depthwise
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer

Array = npt.NDArray[Any]


def find_products(graph: Graph) -> list[str]:
    """Names of the nodes of the main graph that multiply matrices, or convolve, in float32."""
    return [node.name for node in graph.gs.nodes if _can_be_narrowed(node)]


def narrow(graph: Graph, names: Collection[str]) -> None:
    """Let nodes multiply in bfloat16, in place.

    Args:
        graph: The graph.
        names: Of `find_products`.

    Raises:
        ValueError: It names a node that cannot be.
    """
    nodes = {node.name: node for node in graph.gs.nodes if _can_be_narrowed(node)}
    if missing := [name for name in names if name not in nodes]:
        raise ValueError(f"there is no layer '{missing[0]}' to compute in bfloat16")
    uses = Uses(graph)
    narrowed: dict[str, gs.Variable] = {}
    for name in names:
        node = nodes[name]
        for place in (0, 1):
            node.inputs[place] = _narrowed(graph, uses, node.inputs[place], narrowed)


def rounded(values: Array) -> npt.NDArray[np.float32]:
    """The nearest numbers that bfloat16 holds, halves to even; NaN and infinities stay."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), nearest.view(np.float32), values)


def _can_be_narrowed(node: gs.Node) -> bool:
    if not is_operator(node, "Conv", "MatMul", "Gemm") or (node.op == "Conv" and is_depthwise(node)):
        return False
    return all(tensor.dtype == np.float32 for tensor in node.inputs[:2]) and constant(node.inputs[0]) is None


def _narrowed(graph: Graph, uses: Uses, tensor: gs.Tensor, narrowed: dict[str, gs.Variable]) -> gs.Tensor:
    known = constant(tensor)
    if known is not None:
        return gs.Constant(uses.fresh_name(f"{tensor.name}_bfloat16"), rounded(known))
    if tensor.name not in narrowed:
        half = gs.Variable(uses.fresh_name(f"{tensor.name}_bfloat16"), None, tensor.shape)
        made = gs.Variable(uses.fresh_name(f"{tensor.name}_narrowed"), tensor.dtype, tensor.shape)
        narrow = gs.Node(
            "Cast", uses.fresh_name(f"{tensor.name}_narrow"), {"to": onnx.TensorProto.BFLOAT16}, [tensor], [half]
        )
        widen = gs.Node("Cast", uses.fresh_name(f"{tensor.name}_widen"), {"to": onnx.TensorProto.FLOAT}, [half], [made])
        source = producer(tensor)
        if source is None:
            graph.gs.nodes[:0] = [narrow, widen]
        else:
            uses.insert_after(source, widen)
            uses.insert_after(source, narrow)
        narrowed[tensor.name] = made
    return narrowed[tensor.name]
