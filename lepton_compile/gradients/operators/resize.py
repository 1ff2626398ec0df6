"""Resize: along each axis a product with a matrix, whose rows weigh the elements around a coordinate.

Coordinates are computed in float32, as onnxruntime does, so that rounding at half-way points falls to the same side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, operator

F32 = np.float32
Floats = npt.NDArray[np.float32]

_ROUNDING: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - F32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + F32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Resize", "Upsample")
def resize(node: Operation, x: Tensor, *_: Tensor | None) -> Tensor:
    """By nearest or linear interpolation."""
    node.require("mode", "nearest", "linear")
    node.require("antialias", 0)
    node.require("keep_aspect_ratio_policy", "stretch")
    for axis, (size, result, scale) in enumerate(zip(x.shape, node.shape(), _scales(node, x), strict=True)):
        if result != size or scale != 1:
            matrix = torch.from_numpy(_matrix(node, size, result, scale)).to(x.dtype)
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def _scales(node: Operation, x: Tensor) -> list[float]:
    """Result per input of each axis."""
    axes = [int(axis) for axis in node.attribute("axes", range(x.dim()))]
    given = node.known(1 if node.node.op == "Upsample" else 2)
    if given is None or not given.size:
        given = np.array([node.shape()[axis] / x.shape[axis] for axis in axes])
    scales = [1.0] * x.dim()
    for axis, scale in zip(axes, given.tolist(), strict=True):
        scales[axis] = float(scale)
    return scales


def _matrix(node: Operation, size: int, result: int, scale: float) -> Floats:
    """The weight of each element in each one of the result."""
    places = _coordinates(node, size, result, F32(scale))
    rows = np.arange(result)
    matrix = np.zeros((result, size), F32)
    if node.attribute("mode", "nearest") == "nearest":
        rounding = "floor" if node.node.op == "Upsample" else node.attribute("nearest_mode", "round_prefer_floor")
        matrix[rows, np.clip(_ROUNDING[rounding](places), 0, size - 1).astype(int)] = 1
        return matrix
    places = np.clip(places, 0, F32(size - 1))
    low = np.floor(places).astype(int)
    matrix[rows, low] += 1 - (places - low)
    matrix[rows, np.minimum(low + 1, size - 1)] += places - low
    return matrix


def _coordinates(node: Operation, size: int, result: int, scale: np.float32) -> Floats:
    """Where each element of the result lies in the input."""
    i = np.arange(result, dtype=F32)
    mode = (
        "asymmetric" if node.node.op == "Upsample" else node.attribute("coordinate_transformation_mode", "half_pixel")
    )
    if mode == "asymmetric":
        return np.asarray(i / scale, F32)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and result > 1):
        return np.asarray((i + F32(0.5)) / scale - F32(0.5), F32)
    if mode in ("align_corners", "pytorch_half_pixel"):
        return np.asarray(i * F32(size - 1) / F32(max(result - 1, 1)), F32)
    node.refuse(f"coordinate_transformation_mode is {mode!r}")
