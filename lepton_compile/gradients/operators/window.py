"""Where the windows of convolutions and pooling lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from lepton_compile.gradients.registry import Operation


@dataclass(frozen=True)
class Window:
    """A window on spatial axes, as it is moved so that the node's result has the shape that it has.

    Attributes:
        taps: Elements of the window along each axis.
        strides: How far the next window is.
        dilations: How far the next tap is.
        before: Elements of padding at the begin of each axis.
        after: Elements of padding that the last window reaches at the end; negative if it ends before that.
        declared: Elements of padding at the end by the node's attributes; ceil_mode makes `after` more.
    """

    taps: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    declared: tuple[int, ...]

    @classmethod
    def of(cls, node: Operation, sizes: Sequence[int], taps: Sequence[int]) -> Window:
        """The window of a node.

        Args:
            node: The node.
            sizes: Spatial sizes of what it reads.
            taps: Elements of the window along each axis.
        """
        rank = len(sizes)
        strides = tuple(map(int, node.attribute("strides", [1] * rank)))
        dilations = tuple(map(int, node.attribute("dilations", [1] * rank)))
        counts = node.shape()[2:]
        # The last window ends so many elements behind the begin of the first.
        reaches = [
            (count - 1) * stride + (width - 1) * dilation + 1
            for count, stride, width, dilation in zip(counts, strides, taps, dilations, strict=True)
        ]
        automatic = node.attribute("auto_pad", "NOTSET")
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            totals = [max(0, reach - size) for reach, size in zip(reaches, sizes, strict=True)]
            before = tuple(total // 2 if automatic == "SAME_UPPER" else total - total // 2 for total in totals)
            declared = tuple(total - first for total, first in zip(totals, before, strict=True))
        else:
            pads = [0] * 2 * rank if automatic == "VALID" else node.attribute("pads", [0] * 2 * rank)
            before, declared = tuple(map(int, pads[:rank])), tuple(map(int, pads[rank:]))
        after = tuple(reach - size - first for reach, size, first in zip(reaches, sizes, before, strict=True))
        return cls(tuple(map(int, taps)), strides, dilations, before, after, declared)

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Before and after each axis."""
        return list(zip(self.before, self.after, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether the same padding on both sides, as PyTorch has it, gives the same windows."""
        return all(
            after <= before and before - after < stride
            for before, after, stride in zip(self.before, self.after, self.strides, strict=True)
        )


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Elements before and after the last axes, or cut off where a count is negative."""
    flat = [count for pair in reversed(pads) for count in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x
