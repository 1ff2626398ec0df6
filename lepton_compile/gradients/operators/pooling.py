"""Pooling over windows, and over all of space."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lepton_compile.gradients.operators.window import Window, padded
from lepton_compile.gradients.registry import Operation, operator

_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@operator("MaxPool")
def max_pool(node: Operation, x: Tensor) -> Tensor:
    """The largest element of each window."""
    window = Window.of(node, x.shape[2:], node.attribute("kernel_shape"))
    outside = padded(x, window.pads, -math.inf)
    return _MAXIMA[x.dim() - 2](outside, window.taps, window.strides, 0, window.dilations)


@operator("AveragePool")
def average_pool(node: Operation, x: Tensor) -> Tensor:
    """The mean of each window, over what lies in the input, or in its padding as well if `count_include_pad`."""
    window = Window.of(node, x.shape[2:], node.attribute("kernel_shape"))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if node.attribute("count_include_pad", 0):
        # Padding that ceil_mode adds is not counted.
        ends = [min(pair) for pair in zip(window.after, window.declared, strict=True)]
        counted = padded(counted, list(zip(window.before, ends, strict=True)), 1.0)
        rest = [(0, after - end) for after, end in zip(window.after, ends, strict=True)]
        return _sums(padded(x, window.pads), window) / _sums(padded(counted, rest), window)
    return _sums(padded(x, window.pads), window) / _sums(padded(counted, window.pads), window)


def _sums(x: Tensor, window: Window) -> Tensor:
    for axis, (taps, stride, dilation) in enumerate(zip(window.taps, window.strides, window.dilations, strict=True)):
        windows = x.unfold(2 + axis, (taps - 1) * dilation + 1, stride)
        x = windows[..., ::dilation].sum(-1)
    return x


@operator("GlobalAveragePool")
def global_average_pool(_: Operation, x: Tensor) -> Tensor:
    """The mean over space."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(_: Operation, x: Tensor) -> Tensor:
    """The largest element in space."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)
