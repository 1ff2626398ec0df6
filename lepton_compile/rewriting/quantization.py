"""What QuantizeLinear and DequantizeLinear say, where one known scale holds for the whole tensor; and what moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import constant, has_output, is_operator, operand

# Between this and its reciprocal, float32 scales times bytes are far from where float32 loses precision or overflows.
_SMALLEST_SCALE = 1e-30
# Operators whose results are elements of their first input, as they are.
_MOVING = frozenset(
    ("DepthToSpace", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
     "Tile", "Transpose", "Unsqueeze")
)  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """Integers q of 8 or 16 bits stand for (q - zero) * scale, in float32.

    Attributes:
        scale: The value of one step.
        zero: The integer that stands for 0.
        dtype: numpy's name of the integers' type.
    """

    scale: float
    zero: int
    dtype: str


def quantization_of(node: gs.Node | None) -> Quantization | None:
    """The parameters of a QuantizeLinear or DequantizeLinear of one known scale; None of any other node."""
    if not is_operator(node, "QuantizeLinear", "DequantizeLinear"):
        return None
    integers = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
    scale, offset = constant(operand(node, 1)), operand(node, 2)
    zero = np.zeros(()) if offset is None else constant(offset)
    if integers.dtype is None or scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    dtype = np.dtype(integers.dtype)
    if dtype.name not in ("uint8", "int8", "uint16", "int16") or scale.dtype != np.float32:
        return None
    if not _SMALLEST_SCALE <= scale.item() <= 1 / _SMALLEST_SCALE:
        return None
    return Quantization(float(scale.item()), int(zero.item()), dtype.name)


def moved_by(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose elements the results of a node are, as they are or the largest of some; none of other nodes."""
    if is_operator(node, "Concat"):
        return list(node.inputs)
    if is_operator(node, "MaxPool"):
        moves = not has_output(node, 1)
    elif is_operator(node, "Resize"):
        mode = str(node.attrs.get("mode", "nearest"))
        moves = mode == "nearest" and str(node.attrs.get("coordinate_transformation_mode")) != "tf_crop_and_resize"
    else:
        moves = is_operator(node, *_MOVING)
    return list(node.inputs[:1]) if moves else []
