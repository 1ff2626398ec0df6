"""Weights of fewer than eight bits, as bytes.

MatMulNBits (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) becomes

    A  dequantize(q)  [+ bias],   q of shape [K, N], with a scale and a zero point for each block of K and each column

and GatherBlockQuantized gather(dequantize(q), indices),
and int4 and uint4, which numpy has no arrays for, become int8 and uint8 where only DequantizeLinear reads them. A byte
holds their numbers; how wide they are stored in a library is for lowering to decide, by their range.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model.from_onnx import UniqueNames
from lepton_compile.model.spelling import CannotSpellError, Writer
from lepton_compile.model.traversal import walk

_WIDER = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}
_WIDTHS = (2, 4, 8)


def widen_constants(graph: gs.Graph) -> None:
    """Let every DequantizeLinear read bytes in place of constants of fewer bits.

    Args:
        graph: It is changed.
    """
    names = UniqueNames(tensor.name for node in walk(graph) for tensor in (*node.inputs, *node.outputs))
    widened: dict[int, gs.Constant] = {}
    for node in walk(graph):
        if node.op != "DequantizeLinear":
            continue
        for place, tensor in enumerate(list(node.inputs)):
            if not isinstance(tensor, gs.Constant) or tensor.values.dtype.name not in _WIDER:
                continue
            if id(tensor) not in widened:
                values = tensor.values.astype(_WIDER[tensor.values.dtype.name])
                widened[id(tensor)] = gs.Constant(names.new(f"{tensor.name}_as_bytes"), values)
            node.inputs[place] = widened[id(tensor)]


def blocked_weights(writer: Writer, output: gs.Tensor) -> None:
    """MatMulNBits: A [..., K], weights [N, blocks, bytes], scales, zero points, an order of the groups, a bias [N].

    Raises:
        CannotSpellError: Its weights are computed, groups are in an order of their own, zero points are no integers, or
            numbers are of 3, 5, 6 or 7 bits.
    """
    attributes = writer.node.attrs
    inner, columns, size = (int(attributes[name]) for name in ("K", "N", "block_size"))
    bits = int(attributes.get("bits", 4))
    blocks = -(-inner // size)
    packed, scales, zeros = writer.constant(1), writer.constant(2), writer.constant(3)
    if packed is None or scales is None:
        raise CannotSpellError("its weights or scales are missing")
    if writer.operand(4) is not None:
        raise CannotSpellError("an order of its groups (g_idx) is not supported")
    if bits not in _WIDTHS:
        raise CannotSpellError(f"weights of {bits} bits are not supported")
    if zeros is not None and zeros.dtype != np.uint8:
        raise CannotSpellError(f"zero points of type {zeros.dtype} are not supported")
    numbers = _unpacked(packed.reshape(columns, -1), bits)[:, : blocks * size].T[:inner]
    if zeros is None:
        offsets = np.full((blocks, columns), 1 << (bits - 1), np.uint8)
    else:
        offsets = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks].T
    right = writer.write(
        "DequantizeLinear",
        writer.value(np.ascontiguousarray(numbers), "weights"),
        writer.value(np.ascontiguousarray(scales.reshape(columns, blocks).T), "scales"),
        writer.value(np.ascontiguousarray(offsets), "zero_points"),
        axis=0,
        block_size=size,
    )
    bias = writer.operand(5)
    if bias is None:
        writer.write("MatMul", writer.required(0), right, into=output)
    else:
        writer.write("Add", writer.write("MatMul", writer.required(0), right), bias, into=output)


def blocked_table(writer: Writer, output: gs.Tensor) -> None:
    """GatherBlockQuantized: a table, indices, scales, zero points; bytes may hold several numbers of the last axis.

    Raises:
        CannotSpellError: Its table is computed, or not of integers.
    """
    attributes = writer.node.attrs
    values, scales, zeros = writer.constant(0), writer.constant(2), writer.constant(3)
    if values is None or scales is None:
        raise CannotSpellError("its table or scales are missing")
    if values.dtype.name not in ("uint8", *_WIDER):
        raise CannotSpellError(f"a table of type {values.dtype} is not supported")
    if values.dtype == np.uint8:
        bits = int(attributes.get("bits", 4))
        if bits not in _WIDTHS:
            raise CannotSpellError(f"a table of {bits} bits is not supported")
        values = _unpacked(values, bits)
        if zeros is None:
            zeros = np.full(scales.shape, 1 << (bits - 1), np.uint8)
        else:
            zeros = _unpacked(zeros, bits)[..., : scales.shape[-1]]
    table = writer.write(
        "DequantizeLinear",
        writer.value(values, "table"),
        writer.value(scales, "scales"),
        None if zeros is None else writer.value(zeros, "zero_points"),
        axis=int(attributes.get("quantize_axis", 1)),
        block_size=int(attributes.get("block_size", 128)),
    )
    writer.write("Gather", table, writer.required(1), into=output, axis=int(attributes.get("gather_axis", 0)))


def _unpacked(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Numbers of some bits each, from bytes whose lowest bits come first, row by row."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:-1], -1)
