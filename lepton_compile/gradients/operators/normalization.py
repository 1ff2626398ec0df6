"""Normalizations, and softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, operator


def _of_channels(x: Tensor, value: Tensor) -> Tensor:
    """A number for each channel, along axis 1 of a tensor."""
    return value.reshape(-1, *[1] * (x.dim() - 2))


def _normalized(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Of mean 0 and variance 1 along axes."""
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)


@operator("BatchNormalization")
def batch_normalization(
    node: Operation, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """An affine map of each channel: the statistics are those of training."""
    node.require("training_mode", 0)
    factor = scale * torch.rsqrt(variance + float(node.attribute("epsilon", 1e-5)))
    return x * _of_channels(x, factor) + _of_channels(x, bias - factor * mean)


@operator("InstanceNormalization")
def instance_normalization(node: Operation, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each image by its own mean and variance."""
    made = _normalized(x, tuple(range(2, x.dim())), float(node.attribute("epsilon", 1e-5)))
    return made * _of_channels(x, scale) + _of_channels(x, bias)


@operator("LayerNormalization")
def layer_normalization(node: Operation, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The last axes by their mean and variance."""
    axes = tuple(range(int(node.attribute("axis", -1)) % x.dim(), x.dim()))
    made = _normalized(x, axes, float(node.attribute("epsilon", 1e-5))) * scale
    return made if bias is None else made + bias


@operator("RMSNormalization")
def root_mean_square_normalization(node: Operation, x: Tensor, scale: Tensor) -> Tensor:
    """The last axes by their root mean square."""
    axes = tuple(range(int(node.attribute("axis", -1)) % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + float(node.attribute("epsilon", 1e-5))) * scale


@operator("LRN")
def local_response_normalization(node: Operation, x: Tensor) -> Tensor:
    """By the squares of neighbouring channels."""
    size = int(node.attribute("size"))
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    before = torch.zeros_like(x[:, :1]).repeat_interleave((size - 1) // 2, 1)
    after = torch.zeros_like(x[:, :1]).repeat_interleave(size // 2, 1)
    squares = torch.cat([before, x * x, after], 1).unfold(1, size, 1).sum(-1)
    return x * (float(node.attribute("bias", 1.0)) + alpha / size * squares) ** -beta


@operator("LpNormalization")
def length_normalization(node: Operation, x: Tensor) -> Tensor:
    """By the length along an axis."""
    order, axis = int(node.attribute("p", 2)), int(node.attribute("axis", -1))
    length = x.abs().sum(axis, keepdim=True) if order == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return x / torch.where(length == 0, torch.ones_like(length), length)


@operator("Softmax", "LogSoftmax")
def softmax(node: Operation, x: Tensor) -> Tensor:
    """Over an axis; before version 13, over all from it on."""
    axis = int(node.attribute("axis", -1 if node.opset >= 13 else 1)) % x.dim()
    rows = x if node.opset >= 13 else x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))
    made = torch.softmax(rows, axis) if node.node.op == "Softmax" else torch.log_softmax(rows, axis)
    return made.reshape(x.shape)
