"""Padding: a Pad with zeros becomes the padding of the Conv, AveragePool or MaxPool that reads it.

- Conv pads with zeros itself.
- AveragePool does when it counts padding (count_include_pad); one without padding of its own can be told to.
- MaxPool pads with minus infinity: the same maximum where nothing is negative, since every window holds a real element,
  or where the Pad's value is minus infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import (
    Uses,
    constant,
    has_output,
    is_operator,
    operand,
    producer,
    scopes,
    summary,
)
from lepton_compile.target import Target

# Operators with no negative output, whatever the input.
_NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
# Operators whose output has no negative element where the input has none.
_KEEPS_SIGN = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Reshape", "Transpose")


@dataclass(frozen=True)
class Padding(Pass):
    """Fold a Pad with zeros into the Conv, AveragePool or MaxPool that reads it."""

    name = "padding"
    stage = Stage.CANONICALISE
    after = ("constant_folding", "no_operations")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where a window operator can pad by itself."""
        found: list[str] = []
        refusals: list[str] = []
        for node, pad in _candidates(graph):
            if why := _why_not(node, pad):
                refusals.append(f"{pad.name} into {node.name}: {why}")
            else:
                found.append(f"{pad.name} into {node.name}")
        if not found:
            return Decline("no Pad can become the padding of a Conv or pooling", tuple(refusals))
        return Proposal(self, f"{len(found)} copies of tensors saved: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fold them; a Pad that others read as well stays for those."""
        uses = Uses(graph)
        for node, pad in list(_candidates(graph)):
            if _why_not(node, pad):
                continue
            padding = _spatial_padding(pad)
            assert padding is not None
            own = _own_padding(node)
            node.attrs["pads"] = [a + b for a, b in zip(own, padding, strict=True)]
            node.attrs.pop("auto_pad", None)
            if is_operator(node, "AveragePool"):
                node.attrs["count_include_pad"] = 1
            node.inputs[0] = pad.inputs[0]
            if not pad.outputs[0].outputs and not uses.is_output(pad.outputs[0]):
                uses.remove([pad])
        return graph


def _candidates(graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Window operators with the Pad that they read; where a Pad reads a Pad, the last one first."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if is_operator(node, "AveragePool", "Conv", "MaxPool"):
                pad = producer(node.inputs[0])
                if is_operator(pad, "Pad"):
                    yield node, pad


def _why_not(node: gs.Node, pad: gs.Node) -> str:
    if pad.attrs.get("mode", "constant") != "constant":
        return f"it pads by {pad.attrs['mode']}"
    padding = _spatial_padding(pad)
    if padding is None:
        return "its pads are not constant, or not on spatial axes alone"
    if min(padding) < 0:
        return "it crops"
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"{node.name} pads by {node.attrs['auto_pad']}"
    value = _value(pad)
    if is_operator(node, "Conv"):
        return "" if value == 0 else "its value is not zero"
    return _why_not_pooling(node, pad, padding, value)


def _why_not_pooling(node: gs.Node, pad: gs.Node, padding: list[int], value: float | None) -> str:
    if node.attrs.get("ceil_mode", 0):
        return f"{node.name} rounds its size up, which treats padding in a way of its own"
    if any(size != 1 for size in node.attrs.get("dilations", [1])):
        return f"{node.name} is dilated"
    own, kernel = _own_padding(node), [int(size) for size in node.attrs["kernel_shape"]]
    if any(a + b >= size for a, b, size in zip(own, padding, kernel * 2, strict=True)):
        return f"{node.name} would have windows of nothing but padding"
    if is_operator(node, "AveragePool"):
        if value != 0:
            return "its value is not zero"
        counts = bool(node.attrs.get("count_include_pad", 0))
        return "" if counts or not any(own) else f"{node.name} does not count the padding that it has itself"
    if has_output(node, 1):
        return f"{node.name} gives indices"
    if value == -math.inf or (value == 0 and not any(own) and _not_negative(pad.inputs[0])):
        return ""
    return f"{node.name} pads with minus infinity, and '{pad.inputs[0].name}' may be below the Pad's value"


def _value(pad: gs.Node) -> float | None:
    """The value that a Pad fills in; None where it is not known."""
    tensor = operand(pad, 2)
    if tensor is None:
        return 0.0
    value = constant(tensor)
    return None if value is None or value.size != 1 else float(value.item())


def _spatial_padding(pad: gs.Node) -> list[int] | None:
    """Begins, then ends, of the axes from 2 on; None where not known, or batch or channels are padded."""
    pads, rank = constant(operand(pad, 1)), len(pad.inputs[0].shape or ())
    axes_tensor = operand(pad, 3)
    axes = range(rank) if axes_tensor is None else constant(axes_tensor)
    if pads is None or axes is None or rank < 3:
        return None
    begins, ends = [0] * rank, [0] * rank
    half = len(pads) // 2
    for axis, begin, end in zip(axes, pads[:half], pads[half:], strict=True):
        begins[int(axis)], ends[int(axis)] = int(begin), int(end)
    if any(begins[:2]) or any(ends[:2]):
        return None
    return begins[2:] + ends[2:]


def _own_padding(node: gs.Node) -> list[int]:
    spatial = len(node.inputs[0].shape) - 2
    return [int(size) for size in node.attrs.get("pads", [0] * (2 * spatial))]


def _not_negative(tensor: gs.Tensor) -> bool:
    node = producer(tensor)
    while is_operator(node, *_KEEPS_SIGN):
        node = producer(node.inputs[0])
    if is_operator(node, "Clip"):
        lowest = constant(operand(node, 1))
        return lowest is not None and bool((lowest >= 0).all())
    return is_operator(node, *_NOT_NEGATIVE)
