"""The windows of nodes that slide them: kernel, strides, dilations and padding."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compile.kernels.window import Window
from lepton_compile.lowering.operators import Operation


def convolution_windows(operation: Operation, inputs: Sequence[int], kernel: Sequence[int]) -> list[Window]:
    """The windows of a convolution, one per spatial axis."""
    strides, dilations = steps_of(operation, len(inputs))
    before, after = pads_of(operation, inputs, kernel, strides, dilations)
    return [
        Window(size, (size + first + last - dilation * (k - 1) - 1) // stride + 1, k, stride, dilation, first)
        for size, k, stride, dilation, first, last in zip(
            inputs, kernel, strides, dilations, before, after, strict=True
        )
    ]


def pooling_windows(operation: Operation, inputs: Sequence[int]) -> tuple[list[Window], list[int]]:
    """The windows of a pooling, one per spatial axis, and the extent of each axis with its padding."""
    kernel = list(operation.attribute("kernel_shape"))
    strides, dilations = steps_of(operation, len(inputs))
    before, after = pads_of(operation, inputs, kernel, strides, dilations)
    ceil = bool(operation.attribute("ceil_mode", 0)) and operation.attribute("auto_pad", "NOTSET") in ("NOTSET", "")
    windows = []
    for size, k, stride, dilation, first, last in zip(inputs, kernel, strides, dilations, before, after, strict=True):
        room = size + first + last - dilation * (k - 1) - 1
        positions = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (positions - 1) * stride >= size + first:
            positions -= 1  # the last window has to start inside the input or the padding before it
        windows.append(Window(size, positions, k, stride, dilation, first))
    return windows, [size + first + last for size, first, last in zip(inputs, before, after, strict=True)]


def output_shape(operation: Operation, batch: int, channels: int, windows: Sequence[Window]) -> list[int]:
    """The shape of what the windows give.

    Raises:
        UnsupportedOperatorError: A window does not fit, and the output would have no elements.
    """
    shape = [batch, channels, *(window.positions for window in windows)]
    if any(size <= 0 for size in shape):
        raise operation.unsupported(f"its output would have the shape {shape}")
    return shape


def steps_of(operation: Operation, rank: int) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    return list(operation.attribute("strides", [1] * rank)), list(operation.attribute("dilations", [1] * rank))


def pads_of(
    operation: Operation, inputs: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, `auto_pad` resolved."""
    rank = len(inputs)
    automatic = operation.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        pads = list(operation.attribute("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    if automatic == "VALID":
        return [0] * rank, [0] * rank
    total = [
        max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        for size, k, stride, dilation in zip(inputs, kernel, strides, dilations, strict=True)
    ]
    small = [amount // 2 for amount in total]
    large = [amount - amount // 2 for amount in total]
    return (small, large) if automatic == "SAME_UPPER" else (large, small)
