"""Conv and ConvTranspose, of one to three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from lepton_compile.gradients.operators.window import Window, padded
from lepton_compile.gradients.registry import Operation, operator

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@operator("Conv")
def convolution(node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution; the padding on both sides of an axis may differ."""
    window = Window.of(node, x.shape[2:], weight.shape[2:])
    groups = int(node.attribute("group", 1))
    convolve = _CONVOLUTIONS[x.dim() - 2]
    if window.symmetric:
        return convolve(x, weight, bias, window.strides, window.before, window.dilations, groups)
    return convolve(padded(x, window.pads), weight, bias, window.strides, 0, window.dilations, groups)


@operator("ConvTranspose")
def transposed_convolution(node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a convolution takes apart; of the whole result, the part that padding leaves."""
    rank = x.dim() - 2
    strides = tuple(node.attribute("strides", [1] * rank))
    dilations = tuple(node.attribute("dilations", [1] * rank))
    groups = int(node.attribute("group", 1))
    whole = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = node.shape()[2:]
    cut = _cut_before(node, whole.shape[2:], sizes)
    # output_padding may reach behind the last element that anything is added to.
    missing = [max(0, first + size - full) for first, size, full in zip(cut, sizes, whole.shape[2:], strict=True)]
    whole = padded(whole, [(0, count) for count in missing])
    for axis, (first, size) in enumerate(zip(cut, sizes, strict=True)):
        whole = whole.narrow(2 + axis, first, size)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * rank)


def _cut_before(node: Operation, whole: Sequence[int], sizes: Sequence[int]) -> Sequence[int]:
    """How many elements the padding at the begin of each axis takes away."""
    automatic = node.attribute("auto_pad", "NOTSET")
    rank = len(whole)
    if automatic == "VALID":
        return [0] * rank
    extra = node.attribute("output_padding", [0] * rank)
    totals = [full + more - size for full, more, size in zip(whole, extra, sizes, strict=True)]
    if automatic == "SAME_UPPER":
        return [total // 2 for total in totals]
    if automatic == "SAME_LOWER":
        return [total - total // 2 for total in totals]
    if node.attribute("output_shape") is not None:
        return [total // 2 for total in totals]
    return [int(count) for count in node.attribute("pads", [0] * 2 * rank)[:rank]]
