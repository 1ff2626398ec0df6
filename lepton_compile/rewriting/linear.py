"""Scaling and shifting the output channels of a node by changing its weights.

For a node that is linear in its weights, a per-channel affine map of the output is a change of weights and bias:

    scale * (W x + b) + shift = (scale * W) x + (scale * b + shift)

Arithmetic is in float64 and rounded once to the type of the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand, producer, same_type, static_shape

Array = npt.NDArray[np.float64]

# Where the operators keep their weight and their bias; MatMul's bias is an Add behind it.
_CONVOLUTIONS = ("Conv", "ConvTranspose", "Gemm")
_NORMALISATIONS = ("BatchNormalization", "InstanceNormalization")


@dataclass(frozen=True)
class Linear:
    """A node, or a MatMul with the Add of a constant behind it, whose output channels can be scaled and shifted.

    Attributes:
        node: The node that holds the weight: Conv, ConvTranspose, Gemm, MatMul, BatchNormalization,
            InstanceNormalization.
        addition: The Add behind a MatMul; None where there is none.
        axis: The axis of the output that the channels lie on.
        channels: Their number.
    """

    node: gs.Node
    addition: gs.Node | None
    axis: int
    channels: int

    @property
    def name(self) -> str:
        """The name of the node that holds the weight."""
        return str(self.node.name)

    @property
    def weight(self) -> gs.Tensor:
        """What is multiplied by the scale."""
        return self.node.inputs[1]

    @property
    def output(self) -> gs.Tensor:
        """The tensor whose channels are scaled and shifted."""
        return (self.addition or self.node).outputs[0]

    @property
    def takes_shift(self) -> bool:
        """Whether a shift changes constants only; a bare MatMul needs an Add for it."""
        return self.addition is not None or not is_operator(self.node, "MatMul")


def find_linear(output: gs.Tensor) -> Linear | None:
    """The linear node that computes `output`, or None where there is none. A MatMul's second operand is constant."""
    node, shape = producer(output), static_shape(output)
    if shape is None:
        return None
    if is_operator(node, *_CONVOLUTIONS, *_NORMALISATIONS) and len(shape) >= 2:
        return Linear(node, None, 1, shape[1])
    addition, bias = None, None
    if is_operator(node, "Add") and (index := _constant_index(node)) is not None:
        product = node.inputs[1 - index]
        if not same_type(product, output):
            return None
        addition, bias, node = node, node.inputs[index], producer(product)
    if not is_operator(node, "MatMul") or (weight := constant(node.inputs[1])) is None or weight.ndim < 2:
        return None
    linear = Linear(node, addition, len(shape) - 1, shape[-1])
    return linear if bias is None or channel_vector(bias, linear) is not None else None


def channel_vector(tensor: gs.Tensor, linear: Linear) -> Array | None:
    """The constant `tensor`, which broadcasts against the output of `linear`, as one value a channel.

    Returns:
        float64 values of shape [channels]; None where it is no constant or differs along other axes than the channels'.
    """
    value, rank = constant(tensor), len(static_shape(linear.output) or ())
    if value is None or value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != linear.axis):
        return None
    if shape[linear.axis] not in (1, linear.channels):
        return None
    return np.broadcast_to(value.astype(np.float64).reshape(-1), (linear.channels,))


def why_not_fold(uses: Uses, linear: Linear, reader: gs.Node, scale: Array, shift: Array) -> str:
    """Why `scale` and `shift`, each of shape [channels], which `reader` applies, cannot move into the weights.

    Returns:
        "conv_12: weight is shared with conv_40", or "" where they can.
    """
    if why := uses.other_use(linear.output, reader):
        return f"{linear.name}: {why}"
    if linear.addition is not None and (why := uses.other_use(linear.node.outputs[0], linear.addition)):
        return f"{linear.name}: {why}"
    bias = _bias(linear)
    if bias is not None and constant(bias) is None:
        return f"{linear.name}: its bias is not a constant"
    others = [node for node in linear.weight.outputs if node is not linear.node]
    if others and not is_operator(linear.node, *_NORMALISATIONS):
        return f"{linear.name}: weight is shared with {others[0].name}"
    weight = constant(linear.weight)
    if weight is None:
        return f"{linear.name}: its weight is not a constant"
    if weight.dtype not in (np.float16, np.float32, np.float64) or constant_type(linear.weight) != weight.dtype:
        return f"{linear.name}: its weight is of type {constant_type(linear.weight)}"
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return f"{reader.name}: its scale or shift is not finite"
    if is_operator(linear.node, "Gemm") and _gemm_bias(linear, np.zeros(linear.channels)) is None:
        return f"{linear.name}: its bias differs from row to row"
    return _why_not_representable(linear, weight, scale, shift)


def fold(uses: Uses, linear: Linear, scale: Array, shift: Array) -> None:
    """Change weights and bias so that the output channels are scaled, then shifted; `why_not_fold` must agree.

    Where `takes_shift` is false, `shift` must be zero.
    """
    node = linear.node
    weight = constant(linear.weight)
    assert weight is not None
    node.inputs[1] = _constant_like(uses, linear.weight, weight.astype(np.float64) * _factor(linear, weight, scale))
    bias = _bias(linear)
    values = _shifted_bias(linear, scale, shift)
    if linear.addition is not None:
        index = _constant_index(linear.addition)
        assert index is not None
        linear.addition.inputs[index] = _constant_like(uses, linear.addition.inputs[index], values)
    elif bias is not None:
        node.inputs[2] = _constant_like(uses, bias, values)
    elif shift.any():
        new = gs.Constant(uses.fresh_name(f"{node.name}_bias"), values.astype(weight.dtype))
        node.inputs = [*node.inputs[:2], new]
    if is_operator(node, "Gemm") and len(node.inputs) > 2:
        node.attrs["beta"] = 1.0


def constant_type(tensor: gs.Tensor) -> object:
    """The element type of a constant as ONNX sees it."""
    return getattr(tensor, "export_dtype", None) or tensor.dtype


def _constant_index(addition: gs.Node) -> int | None:
    return next((index for index in (1, 0) if constant(addition.inputs[index]) is not None), None)


def _bias(linear: Linear) -> gs.Tensor | None:
    if linear.addition is not None:
        index = _constant_index(linear.addition)
        return None if index is None else linear.addition.inputs[index]
    return None if is_operator(linear.node, "MatMul") else operand(linear.node, 2)


def _factor(linear: Linear, weight: npt.NDArray[Any], scale: Array) -> Array:
    """`scale` in the shape that multiplies the weight, with as many axes."""
    op, attributes = linear.node.op, linear.node.attrs
    if op == "Conv":  # [M, C / group, kernel...]
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    if op == "ConvTranspose":  # [C, M / group, kernel...], the C of a group after those of another
        group = int(attributes.get("group", 1))
        rows = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
    if op == "Gemm" and attributes.get("transB", 0):
        return scale.reshape(-1, 1)
    # The last axis of Gemm's and MatMul's, the only one of a normalisation's.
    return scale.reshape(*[1] * (weight.ndim - 1), -1)


def _shifted_bias(linear: Linear, scale: Array, shift: Array) -> Array:
    """The new bias, of shape [channels]."""
    if is_operator(linear.node, "Gemm"):
        bias = _gemm_bias(linear, shift)
        assert bias is not None
        return (bias - shift) * scale + shift
    tensor = _bias(linear)
    old = None if tensor is None else channel_vector(tensor, linear) if linear.addition else constant(tensor)
    return shift if old is None else old.astype(np.float64) * scale + shift


def _gemm_bias(linear: Linear, shift: Array) -> Array | None:
    """`beta * C + shift` as one value a channel; None where C differs from row to row."""
    bias = operand(linear.node, 2)
    if bias is None:
        return shift
    vector = channel_vector(bias, linear)
    return None if vector is None else float(linear.node.attrs.get("beta", 1.0)) * vector + shift


def _why_not_representable(linear: Linear, weight: npt.NDArray[Any], scale: Array, shift: Array) -> str:
    """Why the type of the weight cannot hold the new ones: they overflow, or sink below its normal numbers."""
    limits = np.finfo(weight.dtype)
    factor = np.abs(_factor(linear, weight, scale))
    shared_axes = tuple(axis for axis, size in enumerate(factor.shape) if size == 1)
    largest = np.abs(weight).max(axis=shared_axes, keepdims=True, initial=0).astype(np.float64)
    peaks = largest * factor
    with np.errstate(all="ignore"):
        bias = np.abs(_shifted_bias(linear, scale, shift))
    if not (np.all(peaks <= limits.max) and np.all(bias <= limits.max)):
        return f"{linear.name}: the folded weights would not be finite in {weight.dtype}"
    if np.any((peaks < limits.tiny) & (largest >= limits.tiny) & (factor > 0)):
        return f"{linear.name}: the folded weights would be too small for {weight.dtype}"
    return ""


def _constant_like(uses: Uses, tensor: gs.Tensor, values: Array) -> gs.Constant:
    """A new constant in the place of `tensor` for its one reader; under the same name where it has no other."""
    old = constant(tensor)
    assert old is not None
    name = tensor.name
    if len(tensor.outputs) > 1 or not isinstance(tensor, gs.Constant):
        name = uses.fresh_name(f"{tensor.name}_folded")
    return gs.Constant(name, np.ascontiguousarray(values.astype(old.dtype)))
