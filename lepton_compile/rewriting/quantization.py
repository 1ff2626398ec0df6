"""What is stored in fewer bits than it is computed in: how it is restored, and what moves it as it is.

QuantizeLinear and DequantizeLinear say so of integers with scale and zero point, and Casts between float32 and bfloat16
of numbers that stand for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import Uses, constant, has_output, is_operator, operand, producer

# Between this and its reciprocal, float32 scales times bytes are far from where float32 loses precision or overflows.
_SMALLEST_SCALE = 1e-30
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MOVING_BFLOAT16 = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators by which onnxruntime moves bfloat16 numbers; bytes it moves by more."""
# Operators whose results are elements of their first input, as they are.
_MOVING = frozenset(
    ("DepthToSpace", "Expand", "Flatten", "Gather", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
     "Tile", "Transpose", "Unsqueeze")
)  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """Numbers q of 8 or 16 bits stand for (q - zero) * scale, in float32.

    Attributes:
        scale: The value of one step; 1 for bfloat16.
        zero: The integer that stands for 0.
        dtype: numpy's name of the numbers' type.
    """

    scale: float
    zero: int
    dtype: str


IN_BFLOAT16 = Quantization(1.0, 0, BFLOAT16.name)
"""What Casts between float32 and bfloat16 say."""


def is_narrowing(node: gs.Node | None) -> TypeGuard[gs.Node]:
    """Whether a node quantizes, or rounds float32 to bfloat16."""
    return is_operator(node, "QuantizeLinear") or (
        is_operator(node, "Cast") and node.inputs[0].dtype == np.float32 and node.outputs[0].dtype == BFLOAT16
    )


def is_restoring(node: gs.Node | None) -> TypeGuard[gs.Node]:
    """Whether a node dequantizes, or widens bfloat16 to float32."""
    return is_operator(node, "DequantizeLinear") or (
        is_operator(node, "Cast") and node.inputs[0].dtype == BFLOAT16 and node.outputs[0].dtype == np.float32
    )


def quantization_of(node: gs.Node | None) -> Quantization | None:
    """The parameters of a node that narrows or restores with one known scale; None of any other node."""
    if is_operator(node, "Cast") and (is_narrowing(node) or is_restoring(node)):
        return IN_BFLOAT16
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


def restored_for(nodes: Sequence[gs.Node], uses: Uses) -> list[gs.Node]:
    """What restores that nodes read and nothing else does: a kernel reads the short numbers, and restores them."""
    sources = [(producer(tensor), tensor, node) for node in nodes for tensor in node.inputs]
    found = [source for source, tensor, node in sources if is_restoring(source) and not uses.other_use(tensor, node)]
    return list({id(node): node for node in found}.values())
