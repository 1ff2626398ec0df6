"""Products in int8 of what is quantized by the range that it has in each run.

    y = x W + b   ->   q, s, z = DynamicQuantizeLinear(x),   y = float32(MatMulInteger(q, Q, z)) * (s t) + b

Q holds the weights as signed bytes symmetric around 0, t their scales, one for each output. No ranges are needed from
samples, so that inputs may differ in size by any factor; what it costs is a pass over x for its range, and that nothing
before it can write bytes. Channels of large values are smoothed as they are with fixed ranges. Recurrent layers are
left out: what an LSTM or GRU of ONNX reads cannot be a product already.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.layers import Layer
from lepton_compile.quantization.weights import Array, rounded, spread, weight_scales
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand


def find_dynamic(graph: Graph, layers: Collection[str]) -> list[str]:
    """Those of the layers that could compute so: matrix products."""
    return [node.name for node in graph.gs.nodes if node.name in layers and is_operator(node, "MatMul", "Gemm")]


def quantize_dynamically(graph: Graph, layers: Sequence[Layer], smoothing: Mapping[str, Array]) -> None:
    """Let layers compute so; what several of them read is quantized once.

    Args:
        graph: Changed in place.
        layers: Layers of `find_dynamic`.
        smoothing: What each channel of some tensors is divided by before they are quantized.
    """
    uses = Uses(graph)
    place = {node.name: number for number, node in enumerate(graph.gs.nodes)}
    nodes = {node.name: node for node in graph.gs.nodes}
    quantized: dict[int, list[gs.Variable]] = {}
    for layer in sorted(layers, key=lambda each: place[each.node]):
        node = nodes[layer.node]
        x = node.inputs[0]
        if id(x) not in quantized:
            quantized[id(x)] = _quantized(x, smoothing.get(x.name), node, uses)
        _multiply_integers(node, layer, quantized[id(x)], smoothing.get(x.name), uses)


def shares(graph: Graph) -> Mapping[str, tuple[str, float]]:
    """For each product of integers the node that quantizes its operand for the run, and its share of that node."""
    found: dict[str, tuple[str, float]] = {}
    for node in graph.gs.nodes:
        if is_operator(node, "DynamicQuantizeLinear"):
            readers = [reader.name for reader in node.outputs[0].outputs]
            found |= dict.fromkeys(readers, (node.name, 1 / len(readers)))
    return found


def _quantized(x: gs.Variable, factors: Array | None, reader: gs.Node, uses: Uses) -> list[gs.Variable]:
    """Bytes, scale and zero point."""
    name = x.name
    if factors is not None:
        inverse = gs.Constant(uses.fresh_name(f"{name}_smoothing"), 1 / factors)
        smooth = gs.Variable(uses.fresh_name(f"{name}_smoothed"), x.dtype, x.shape)
        uses.insert_before(reader, gs.Node("Mul", uses.fresh_name(f"{name}_smooth"), {}, [x, inverse], [smooth]))
        x = smooth
    made = [
        gs.Variable(uses.fresh_name(f"{name}_quantized"), np.dtype(np.uint8), x.shape),
        gs.Variable(uses.fresh_name(f"{name}_scale"), np.dtype(np.float32), ()),
        gs.Variable(uses.fresh_name(f"{name}_zero_point"), np.dtype(np.uint8), ()),
    ]
    uses.insert_before(reader, gs.Node("DynamicQuantizeLinear", uses.fresh_name(f"{name}_range"), {}, [x], made))
    return made


def _multiply_integers(
    node: gs.Node, layer: Layer, x: Sequence[gs.Variable], factors: Array | None, uses: Uses
) -> None:
    """Make the node the product of integers, with what its sums stand for behind it."""
    q, scale, zero = x
    weights, bias, beta = constant(node.inputs[1]), operand(node, 2), float(node.attrs.get("beta", 1))
    assert weights is not None
    if factors is not None:
        weights = weights * spread(factors, layer.weights_axis, weights.ndim)
    steps = weight_scales(weights, layer.output_axis)
    integers = rounded(weights, steps, layer.output_axis)
    result, name = node.outputs[0], node.name

    def known(kind: str, values: Array) -> gs.Constant:
        return gs.Constant(uses.fresh_name(f"{name}_{kind}"), np.ascontiguousarray(values))

    def variable(kind: str, dtype: type[np.generic] = np.float32) -> gs.Variable:
        return gs.Variable(uses.fresh_name(f"{name}_{kind}"), np.dtype(dtype), result.shape)

    def write(op: str, inputs: list[gs.Tensor], output: gs.Tensor, **attributes: int) -> gs.Node:
        return gs.Node(op, uses.fresh_name(f"{name}_{op}"), attributes, inputs, [output])

    sums, floats = variable("sums", np.int32), variable("floats")
    step = gs.Variable(uses.fresh_name(f"{name}_step"), np.dtype(np.float32), steps.shape)
    value = result if bias is None else variable("product")
    behind = [
        write("Cast", [sums], floats, to=onnx.TensorProto.FLOAT),
        write("Mul", [scale, known("scale", steps)], step),
        write("Mul", [floats, step], value),
    ]
    node.outputs = [sums]
    if bias is not None:
        offset = bias
        if beta != 1:
            offset = gs.Variable(uses.fresh_name(f"{name}_offset"), np.dtype(np.float32), bias.shape)
            behind.append(write("Mul", [bias, known("beta", np.array(beta, np.float32))], offset))
        behind.append(write("Add", [value, offset], result))
    node.op, node.attrs = "MatMulInteger", {}
    node.inputs = [q, known("quantized", integers if layer.output_axis else integers.T), zero]
    for each in reversed(behind):
        uses.insert_after(node, each)
