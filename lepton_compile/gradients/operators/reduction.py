"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, operator

Reduction = Callable[[Tensor, tuple[int, ...]], Tensor]

# All of them keep the axes that they reduce.
_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: (x * x).sum(axes, keepdim=True).sqrt(),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceProd": lambda x, axes: _product(x, axes),
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes, keepdim=True),
}


def _product(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


@operator(*_REDUCTIONS)
def reduce(node: Operation, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Over the axes named, in an input or before version 18 in an attribute; over all if none are."""
    axes = tuple(node.attribute("axes") or node.integers(1))
    if not axes:
        node.require("noop_with_empty_axes", 0)
    every = tuple(int(axis) % x.dim() for axis in axes or range(x.dim()))
    return _REDUCTIONS[node.node.op](x, every).reshape(node.shape())


@operator("ArgMax", "ArgMin")
def argument(node: Operation, x: Tensor) -> Tensor:
    """Where the first of the largest or smallest elements lies."""
    node.require("select_last_index", 0)
    axis = int(node.attribute("axis", 0))
    found = torch.argmax(x, axis) if node.node.op == "ArgMax" else torch.argmin(x, axis)
    return found.reshape(node.shape())
