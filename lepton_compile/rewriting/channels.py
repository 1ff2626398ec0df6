"""Nodes that take channels (axis 1) as they are, or in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import constant, is_operator, static_shape


def channel_order(node: gs.Node | None) -> npt.NDArray[np.int64] | None:
    """For a Gather of channels, at constant indices, which one each channel of the result was; None for other nodes."""
    if not is_operator(node, "Gather"):
        return None
    shape, indices = static_shape(node.inputs[0]), constant(node.inputs[1])
    if shape is None or len(shape) < 3 or indices is None or indices.ndim != 1 or not indices.size:
        return None
    if int(node.attrs.get("axis", 0)) not in (1, 1 - len(shape)):
        return None
    order: npt.NDArray[Any] = np.where(indices < 0, indices + shape[1], indices)
    return order.astype(np.int64)


def is_depthwise(convolution: gs.Node) -> bool:
    """Whether every channel is convolved on its own, and into one."""
    weights = static_shape(convolution.inputs[1])
    groups = int(convolution.attrs.get("group", 1))
    return weights is not None and weights[0] == groups and weights[1] == 1 and groups > 1
