"""Operators that onnxruntime adds to ONNX's (domain "com.microsoft"), in ONNX's own.

They are spelled out as soon as a model is read, because ONNX's tools know nothing of them: no shape is inferred behind
one, and so nothing folded, bound or converted. What computes with quantized numbers is said as
DequantizeLinear, the operator on float32, QuantizeLinear. onnxruntime multiplies integer sums by one combined scale
instead of by three, and sums up some operators in tables or fixed point: a value that lies on the border between two
integers may become the other one.

Q- and DequantizeLinear are written in the form of operator set 21 (blocks, 16 bits) even into a graph that is older, as
it is brought to that version next (`lepton_compile.model.opset`), and until then only looked at for its shapes.

The definitions: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lepton_compile.model.packed_weights import blocked_table, blocked_weights
from lepton_compile.model.spelling import CannotSpellError, Spelling, Writer, spell_out

DOMAIN = "com.microsoft"

# From this version of ONNX's operators on, Softmax goes along one axis, not over all from it on.
_SOFTMAX_OF_ONE_AXIS = 13


def spell_out_contributed(graph: gs.Graph) -> None:
    """Replace every operator of the domain that has a spelling, also in the graphs inside nodes.

    Raises:
        UnsupportedOperatorError: Nodes that use what the spelling cannot say.
    """
    spell_out(graph, DOMAIN, SPELLINGS)


def _dequantized(writer: Writer, first: int, **attributes: int) -> gs.Tensor:
    """What the integers at input `first` stand for, their scale and zero point being the next two inputs."""
    integers, scale, zero = writer.required(first), writer.required(first + 1), writer.operand(first + 2)
    made: gs.Tensor = writer.write("DequantizeLinear", integers, scale, zero, **attributes)
    return made


def _quantize(writer: Writer, value: gs.Tensor, first: int, output: gs.Tensor) -> None:
    """Quantize with the scale at input `first` and the zero point behind it."""
    writer.write("QuantizeLinear", value, writer.required(first), writer.operand(first + 1), into=output)


def _own(writer: Writer, output: gs.Tensor) -> None:
    """DequantizeLinear and QuantizeLinear, which had more types here than in ONNX before operator set 21."""
    inputs = [writer.operand(place) for place in range(3)]
    writer.write(writer.node.op, *inputs, into=output, **writer.attributes("axis", "block_size"))


def _elementwise(op: str, *attributes: str) -> Spelling:
    """An operator of one operand: X, its scale and zero point, the result's."""

    def spell(writer: Writer, output: gs.Tensor) -> None:
        if writer.node.attrs.get("channels_last", 0):
            raise CannotSpellError("channels that come last are not supported")
        value = writer.write(op, _dequantized(writer, 0), **writer.attributes(*attributes))
        _quantize(writer, value, 3, output)

    return spell


def _binary(op: str) -> Spelling:
    """An operator of two operands: A, its scale and zero point, B and its, the result's."""

    def spell(writer: Writer, output: gs.Tensor) -> None:
        value = writer.write(op, _dequantized(writer, 0), _dequantized(writer, 3))
        _quantize(writer, value, 6, output)

    return spell


def _where(writer: Writer, output: gs.Tensor) -> None:
    value = writer.write("Where", writer.required(0), _dequantized(writer, 1), _dequantized(writer, 4))
    _quantize(writer, value, 7, output)


def _concat(writer: Writer, output: gs.Tensor) -> None:
    """The result's scale and zero point, then a tensor with its own, as often as there are."""
    parts = [_dequantized(writer, first) for first in range(2, len(writer.node.inputs), 3)]
    _quantize(writer, writer.write("Concat", *parts, axis=writer.node.attrs["axis"]), 0, output)


def _softmax(writer: Writer, output: gs.Tensor) -> None:
    """Softmax as it was in the operator set that an attribute names."""
    value = _dequantized(writer, 0)
    opset, axis = int(writer.node.attrs.get("opset", _SOFTMAX_OF_ONE_AXIS)), int(writer.node.attrs.get("axis", -1))
    if opset < _SOFTMAX_OF_ONE_AXIS:
        rows = writer.write("Softmax", writer.write("Flatten", value, axis=axis), axis=1)
        made = writer.write("Reshape", rows, writer.write("Shape", value))
    elif writer.opset >= _SOFTMAX_OF_ONE_AXIS or axis == -1:
        made = writer.write("Softmax", value, axis=axis)
    else:
        raise CannotSpellError(f"Softmax of operator set {opset} along axis {axis} in a model of set {writer.opset}")
    _quantize(writer, made, 3, output)


def _gemm(writer: Writer, output: gs.Tensor) -> None:
    """Alpha A' B' + C, where C counts in steps of alpha times the scales of A and B; quantized if it has a scale."""
    attributes = writer.attributes("alpha", "transA", "transB")
    a = _dequantized(writer, 0)
    b = _dequantized(writer, 3, axis=0 if attributes.get("transB", 0) else 1)
    c = writer.operand(6)
    if c is not None:
        step = writer.write("Mul", writer.required(1), writer.required(4))
        if attributes.get("alpha", 1.0) != 1.0:
            step = writer.write("Mul", step, writer.value(np.array(attributes["alpha"], np.float32), "alpha"))
        c = writer.write("Mul", writer.write("Cast", c, to=onnx.TensorProto.FLOAT), step)
    if writer.operand(7) is None:
        writer.write("Gemm", a, b, c, into=output, **attributes)
    else:
        _quantize(writer, writer.write("Gemm", a, b, c, **attributes), 7, output)


def _dynamic_product(writer: Writer, output: gs.Tensor) -> None:
    """DynamicQuantizeMatMul: A is quantized by its own range; then B, its scale and zero point, a bias."""
    a, scale, zero = writer.write("DynamicQuantizeLinear", writer.required(0), outputs=3)
    steps = writer.write("Mul", scale, writer.required(2))
    _scaled_sums(writer, (a, writer.required(1), zero, writer.operand(3)), steps, writer.operand(4), output)


def _product_to_float(writer: Writer, output: gs.Tensor) -> None:
    """MatMulIntegerToFloat: A and B, their scales, their zero points, a bias."""
    operands = (writer.required(0), writer.required(1), writer.operand(4), writer.operand(5))
    steps = writer.write("Mul", writer.required(2), writer.required(3))
    _scaled_sums(writer, operands, steps, writer.operand(6), output)


def _scaled_sums(
    writer: Writer, operands: tuple[gs.Tensor | None, ...], steps: gs.Tensor, bias: gs.Tensor | None, output: gs.Tensor
) -> None:
    """An integer product in steps of the two scales' product, as onnxruntime's dynamic quantization spells it."""
    sums = writer.write("Cast", writer.write("MatMulInteger", *operands), to=onnx.TensorProto.FLOAT)
    if bias is None:
        writer.write("Mul", sums, steps, into=output)
    else:
        writer.write("Add", writer.write("Mul", sums, steps), bias, into=output)


_POOLING = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

SPELLINGS: dict[str, Spelling] = {
    "DequantizeLinear": _own,
    "DynamicQuantizeMatMul": _dynamic_product,
    "MatMulIntegerToFloat": _product_to_float,
    "GatherBlockQuantized": blocked_table,
    "MatMulNBits": blocked_weights,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _elementwise("AveragePool", *_POOLING),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _elementwise("GlobalAveragePool"),
    "QLinearLeakyRelu": _elementwise("LeakyRelu", "alpha"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _elementwise("Sigmoid"),
    "QLinearSoftmax": _softmax,
    "QLinearWhere": _where,
    "QuantizeLinear": _own,
}
