"""Putting Casts to bfloat16 and back around the operands of layers, which says that they are to compute in bfloat16.

    y = conv(x, w, b)   ->   y = conv(widen(narrow(x)), W, b)

W holds the weights rounded to numbers that bfloat16 has, in float32. Products of such numbers are exact in float32, and
so is what the graph means: sums, biases and all that follows stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.layers import LAYERS
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer, static_shape
from lepton_compile.rewriting.quantization import BFLOAT16, MOVING_BFLOAT16, moved_by

# What kernels take: see `lepton_compile.lowering.anchors.bfloat16`.
FEW_CHANNELS = 8
WHOLE_VECTOR = 16


def find_products(graph: Graph) -> list[str]:
    """Names of the nodes of the main graph that kernels could compute in bfloat16."""
    return [node.name for node in graph.gs.nodes if not why_not_narrow(node)]


def narrow(graph: Graph, layers: Collection[str]) -> Graph:
    """Let layers compute in bfloat16.

    What a layer reads is rounded where it is computed, once for all that read it, so that it lies in memory as
    bfloat16. Other layers, of full precision, read it as it was.

    Args:
        graph: Changed in place.
        layers: Names of nodes, of `find_products`.

    Returns:
        The graph.

    Raises:
        ValueError: There is no such layer, or there are no kernels for it.
    """
    uses = Uses(graph)
    found = {node.name: node for node in graph.gs.nodes}
    for name in layers:
        if why := why_not_narrow(found[name]) if name in found else "there is none of this name":
            raise ValueError(f"layer '{name}' cannot compute in bfloat16: {why}")
    chosen = [node for node in graph.gs.nodes if node.name in layers]
    sources: dict[int, gs.Tensor] = {}
    for node in chosen:
        for place, tensor in enumerate(node.inputs[:2]):
            known = constant(tensor)
            if known is not None:
                node.inputs[place] = gs.Constant(uses.fresh_name(f"{tensor.name}_bfloat16"), rounded(known))
            else:
                sources.update((id(source), source) for source in _sources(tensor))
    for source in sources.values():
        _round(graph, uses, source, layers)
    return graph


def why_not_narrow(node: gs.Node) -> str:
    """Why no kernel computes a node in bfloat16; "" if one does."""
    if not is_operator(node, *LAYERS):
        return f"it is a {node.op}"
    shapes = [static_shape(tensor) for tensor in node.inputs[:2]]
    if any(tensor.dtype != np.float32 for tensor in node.inputs[:2]):
        return "it computes in another type than float32"
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return "the shape of an operand is not known, or is a vector's"
    if constant(node.inputs[0]) is not None:
        return "its first operand is known"
    if node.op == "Gemm":
        return "its first operand is transposed" if int(node.attrs.get("transA", 0)) else ""
    return _why_not_convolved(node) if node.op == "Conv" else ""


def _why_not_convolved(node: gs.Node) -> str:
    outputs, inputs = node.inputs[1].shape[:2]
    groups = int(node.attrs.get("group", 1))
    if constant(node.inputs[1]) is None:
        return "its weights are computed"
    if groups * inputs < FEW_CHANNELS or inputs % 2:
        return f"it reads {groups * inputs} channels, which are few, or no pairs"
    if groups > 1 and (inputs % WHOLE_VECTOR or (outputs // groups) % WHOLE_VECTOR):
        return "its groups are no whole vectors"
    return ""


def rounded(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The nearest numbers that bfloat16 has, ties to even, as float32."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def _sources(tensor: gs.Tensor) -> list[gs.Tensor]:
    """What a tensor's elements are computed as, before they are moved."""
    node = producer(tensor)
    moved = moved_by(node) if node is not None and node.op in MOVING_BFLOAT16 else []
    if not moved or any(constant(each) is not None for each in moved):
        return [tensor]
    return [source for each in moved for source in _sources(each)]


def _round(graph: Graph, uses: Uses, tensor: gs.Tensor, layers: Collection[str]) -> None:
    """Let the readers of a tensor read it rounded, but for layers of full precision."""
    narrow = gs.Variable(uses.fresh_name(f"{tensor.name}_bfloat16"), BFLOAT16, tensor.shape)
    wide = gs.Variable(uses.fresh_name(f"{tensor.name}_rounded"), tensor.dtype, tensor.shape)
    source = producer(tensor)
    for reader in list({id(reader): reader for reader in tensor.outputs}.values()):
        if is_operator(reader, *LAYERS) and reader.name not in layers:
            continue
        for place, read in enumerate(reader.inputs):
            if read is tensor:
                reader.inputs[place] = wide
    types = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    added = [
        gs.Node("Cast", uses.fresh_name(f"{tensor.name}_narrow"), {"to": types[0]}, [tensor], [narrow]),
        gs.Node("Cast", uses.fresh_name(f"{tensor.name}_widen"), {"to": types[1]}, [narrow], [wide]),
    ]
    if source is None:
        graph.gs.nodes[:0] = added
    for node in reversed(added if source is not None else []):
        uses.insert_after(source, node)
