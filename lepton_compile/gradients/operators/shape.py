"""Operators that rename the elements of a tensor, and those whose answer follows from shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lepton_compile.gradients.operators.elementwise import dtype_of
from lepton_compile.gradients.registry import Operation, operator


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Operation, x: Tensor, _: Tensor | None = None) -> Tensor:
    """The shape that the result is known to have."""
    return x.reshape(node.shape())


@operator("Expand")
def expand(node: Operation, x: Tensor, _: Tensor) -> Tensor:
    """Repeated along axes of size one."""
    return x.expand(node.shape())


@operator("Transpose")
def transpose(node: Operation, x: Tensor) -> Tensor:
    """Axes permuted; reversed by default."""
    return x.permute(tuple(node.attribute("perm", range(x.dim())[::-1])))


@operator("Shape")
def shape(node: Operation, x: Tensor) -> Tensor:
    """The shape, or a part of it."""
    return torch.tensor(x.shape[slice(node.attribute("start", 0), node.attribute("end"))], dtype=torch.int64)


@operator("Size")
def size(_: Operation, x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(math.prod(x.shape))


@operator("ConstantOfShape")
def constant_of_shape(node: Operation, _: Tensor) -> Tensor:
    """One value under a shape."""
    value = node.attribute("value")
    stored = np.zeros(1, np.float32) if value is None else np.asarray(getattr(value, "values", value))
    return torch.from_numpy(np.full(node.shape(), stored.ravel()[0]))


@operator("Range")
def arange(node: Operation, start: Tensor, *_: Tensor) -> Tensor:
    """Start + i delta, below the limit."""
    first, delta = node.known(0), node.known(2)
    assert first is not None and delta is not None  # neither can be left out
    steps = np.arange(node.shape()[0]).astype(first.dtype)
    return torch.from_numpy(np.asarray(first + steps * delta, first.dtype))


@operator("EyeLike")
def eye_like(node: Operation, x: Tensor) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere."""
    rows, columns = node.shape()
    to = node.attribute("dtype")
    return torch.from_numpy(np.eye(rows, columns, int(node.attribute("k", 0)))).to(
        x.dtype if to is None else dtype_of(to)
    )
