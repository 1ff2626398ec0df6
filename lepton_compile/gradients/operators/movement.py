"""Operators that move elements to places known beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, operator

Places = npt.NDArray[np.int64]


def take(x: Tensor, axis: int, places: Places) -> Tensor:
    """The elements at these places of an axis."""
    return x.index_select(axis, torch.from_numpy(places))


@operator("Concat")
def concat(node: Operation, *tensors: Tensor) -> Tensor:
    """Tensors one after the other along an axis."""
    return torch.cat(tensors, int(node.attribute("axis")))


@operator("Split")
def split(node: Operation, x: Tensor, _: Tensor | None = None) -> tuple[Tensor, ...]:
    """Consecutive parts along an axis."""
    axis = int(node.attribute("axis", 0))
    return torch.split(x, [node.shape(number)[axis] for number in range(len(node.node.outputs))], axis)


@operator("Slice")
def slice_(node: Operation, x: Tensor, *_: Tensor | None) -> Tensor:
    """Ranges of some axes, with numpy's rules for negative bounds and steps."""
    starts, ends = node.integers(1), node.integers(2)
    axes, steps = node.integers(3) or tuple(range(len(starts))), node.integers(4) or (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # The smallest integer stands for what lies before the first element.
        last = None if step < 0 and end <= -(2**31) + 1 else end
        chosen = range(*slice(start, last, step).indices(size))
        if step > 0:
            x = x.narrow(axis, min(chosen.start, size), max(0, chosen.stop - chosen.start)) if step == 1 else x
        x = x if step == 1 else take(x, axis, np.array(chosen, np.int64))
    return x


@operator("Gather")
def gather(node: Operation, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of an axis; negative indices count from its end."""
    axis = int(node.attribute("axis", 0)) % x.dim()
    chosen = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    made = x.index_select(axis, chosen.reshape(-1))
    return made.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(node: Operation, x: Tensor, indices: Tensor) -> Tensor:
    """Elements of an axis, chosen for each place."""
    axis = int(node.attribute("axis", 0))
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


@operator("Tile")
def tile(node: Operation, x: Tensor, _: Tensor) -> Tensor:
    """Repeated along every axis."""
    return x.repeat(node.integers(1))


# The element of an axis that stands at each place, of which the first may be negative.
_MIRRORS: dict[str, Callable[[Places, int], Places]] = {
    "edge": lambda places, size: np.clip(places, 0, size - 1),
    "reflect": lambda places, size: (size - 1) - np.abs((size - 1) - places % max(2 * (size - 1), 1)),
    "wrap": lambda places, size: places % size,
}


@operator("Pad")
def pad(node: Operation, x: Tensor, _: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """Elements before and after along axes, or cut off where a count is negative."""
    counts, mode = node.integers(1), str(node.attribute("mode", "constant"))
    named = range(x.dim()) if axes is None else node.integers(3)
    half = len(counts) // 2
    for axis, before, after in zip(named, counts[:half], counts[half:], strict=True):
        cut = max(0, -before)
        x = x.narrow(axis, cut, x.shape[axis] - cut - max(0, -after)) if before < 0 or after < 0 else x
        before, after, size = max(0, before), max(0, after), x.shape[axis]
        if not before and not after:
            continue
        if mode != "constant":
            x = take(x, axis, _MIRRORS[mode](np.arange(-before, size + after), size))
            continue
        fill = x.new_zeros(()) if value is None else value.reshape(())
        ends = [
            fill.expand([count if place == axis % x.dim() else each for place, each in enumerate(x.shape)])
            for count in (before, after)
        ]
        x = torch.cat([ends[0], x, ends[1]], axis)
    return x


@operator("DepthToSpace")
def depth_to_space(node: Operation, x: Tensor) -> Tensor:
    """Blocks of channels spread over space; the block lies outermost among the channels (DCR) or innermost (CRD)."""
    n, c, h, w = x.shape
    b = int(node.attribute("blocksize"))
    if node.attribute("mode", "DCR") == "DCR":
        spread = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        spread = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return spread.reshape(node.shape())


@operator("SpaceToDepth")
def space_to_depth(node: Operation, x: Tensor) -> Tensor:
    """Blocks of space gathered into channels."""
    node.require("mode", "DCR")
    n, c, h, w = x.shape
    b = int(node.attribute("blocksize"))
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(node.shape())


@operator("Trilu")
def triangle(node: Operation, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle of matrices, zeros elsewhere."""
    diagonal = 0 if k is None else node.integers(1)[0]
    return torch.triu(x, diagonal) if node.attribute("upper", 1) else torch.tril(x, diagonal)
