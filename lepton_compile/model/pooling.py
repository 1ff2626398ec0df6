"""Pooling with ceil_mode: onnxruntime leaves out a last window that starts in the padding at the end, onnx does not.

A model's answers are onnxruntime's, so its shapes have to be too. Where a window is left out, the node is put into the
form with explicit padding, on which both agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from lepton_compile.model.shapes import is_static
from lepton_compile.model.traversal import walk

_POOLS = frozenset(("MaxPool", "AveragePool", "LpPool"))


def settle_ceil_mode(graph: gs.Graph) -> int:
    """Rewrite the pools whose shapes the two disagree about, as far as the shapes of their inputs are known.

    Returns:
        How many nodes were changed; the shapes behind them have to be inferred anew.
    """
    changed = 0
    for node in walk(graph):
        automatic = node.attrs.get("auto_pad", "NOTSET") != "NOTSET"
        if node.domain or node.op not in _POOLS or not node.attrs.get("ceil_mode") or automatic:
            continue
        if is_static(node.inputs[0].shape) and (pads := _explicit_pads(node, node.inputs[0].shape[2:])):
            node.attrs["pads"], node.attrs["ceil_mode"] = pads, 0
            changed += 1
    return changed


def _explicit_pads(node: gs.Node, sizes: Sequence[int]) -> list[int] | None:
    """The padding that gives onnxruntime's number of windows without ceil_mode; None where onnx gives that number."""
    rank = len(sizes)
    ones = [1] * rank
    kernel, strides = node.attrs["kernel_shape"], node.attrs.get("strides", ones)
    dilations = node.attrs.get("dilations", ones)
    pads = list(node.attrs.get("pads", [0] * (2 * rank)))
    left_out, longer = False, False
    for axis, (size, k, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        span = dilation * (k - 1) + 1
        room = size + pads[axis] + pads[axis + rank] - span
        windows = -(-room // stride) + 1
        if (windows - 1) * stride >= size + pads[axis]:
            left_out, windows = True, windows - 1
        missing = (windows - 1) * stride - room
        if missing > 0:
            longer = True
            pads[axis + rank] += missing
    counts_padding = node.op != "MaxPool" and (node.op == "LpPool" or node.attrs.get("count_include_pad", 0))
    return pads if left_out and not (longer and counts_padding) else None
