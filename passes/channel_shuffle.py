"""Channel shuffles: Reshape, Transpose, Reshape become one Gather of channels, which moves on to what can take it.

A depthwise convolution and an element-wise operator do the same to channels in any order:

    conv(x[p], W, b) = conv(x, W[q], b[q])[p]        p a permutation of the channels, q its inverse

A convolution across channels that reads the Gather is fused with it (convolution_fusion): its kernel reads the channels
in another order, and nothing is copied.
Source of the shuffle: Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network, 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.channels import channel_order, is_depthwise
from lepton_compile.rewriting.elementwise import is_elementwise
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, producer, scopes, static_shape, summary
from lepton_compile.target import Target

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ChannelShuffle(Pass):
    """Make channel shuffles one Gather each, behind the depthwise convolutions that read them."""

    name = "channel_shuffle"
    stage = Stage.CANONICALISE
    after = ("affine_folding", "batch_normalization", "reshape_chains")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where channels are shuffled, or a Gather of channels can move."""
        uses = Uses(graph)
        found: list[str] = []
        refusals: list[str] = []
        for _, transpose, last, _ in _shuffles(graph):
            if why := uses.other_use(transpose.outputs[0], last):
                refusals.append(f"{transpose.name}: {why}")
            else:
                found.append(f"{transpose.name}")
        found += [f"{gather.name} behind {reader.name}" for gather, reader in _movable(graph, uses)]
        if not found:
            return Decline("no channels are shuffled where it could be avoided", tuple(refusals))
        return Proposal(self, f"{len(found)} only change the order of reading: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Make the Gathers, then move each as far as it goes."""
        uses = Uses(graph)
        for first, transpose, last, order in list(_shuffles(graph)):
            if not uses.other_use(transpose.outputs[0], last):
                last.op, last.attrs = "Gather", {"axis": 1}
                last.inputs = [first.inputs[0], gs.Constant(uses.fresh_name(f"{transpose.name}_order"), order)]
                unread = [transpose]
                if len(first.outputs[0].outputs) == 1 and not uses.is_output(first.outputs[0]):
                    unread.append(first)
                uses.remove(unread)
        while moved := next(_movable(graph, uses), None):
            _move(uses, *moved)
        return graph


def _shuffles(graph: Graph) -> Iterator[tuple[gs.Node, gs.Node, gs.Node, Array]]:
    """Reshape, Transpose, Reshape that permute channels, and for each channel of the result the one that it was."""
    for scope in scopes(graph):
        for last in scope.nodes:
            if not is_operator(last, "Reshape"):
                continue
            transpose = producer(last.inputs[0])
            first = producer(transpose.inputs[0]) if is_operator(transpose, "Transpose") else None
            if transpose is None or first is None or not is_operator(first, "Reshape"):
                continue
            order = _order(first, transpose, last)
            if order is not None:
                yield first, transpose, last, order


def _order(first: gs.Node, transpose: gs.Node, last: gs.Node) -> Array | None:
    shape, split = static_shape(first.inputs[0]), static_shape(first.outputs[0])
    if shape is None or split is None or len(shape) < 3 or 0 in shape or static_shape(last.outputs[0]) != shape:
        return None
    permutation = [int(axis) for axis in transpose.attrs.get("perm", reversed(range(len(split))))]
    # Axes [1, end) are the channels; the images in front and the positions behind stay where they are.
    ends = [end for end in range(1, len(split) + 1) if math.prod(split[1:end]) == shape[1]]
    if split[0] != shape[0] or permutation[0] != 0 or not ends:
        return None
    end = ends[-1]
    if permutation[end:] != list(range(end, len(split))):
        return None
    channels = np.arange(shape[1], dtype=np.int64).reshape(split[1:end])
    return channels.transpose([axis - 1 for axis in permutation[1:end]]).ravel()


def _movable(graph: Graph, uses: Uses) -> Iterator[tuple[gs.Node, gs.Node]]:
    """Gathers that permute channels, with the only node that reads them, where that node may come first."""
    for scope in scopes(graph):
        for gather in scope.nodes:
            order = channel_order(gather)
            if order is None or sorted(order) != list(range(len(order))) or len(gather.outputs[0].outputs) != 1:
                continue
            reader = gather.outputs[0].outputs[0]
            if not uses.other_use(gather.outputs[0], reader) and _takes_any_order(reader, gather.outputs[0]):
                yield gather, reader


def _takes_any_order(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node does the same to channels in any order, once its constants are permuted as well."""
    if node.inputs[0] is not tensor or static_shape(node.outputs[0]) is None:
        return False
    constants = [constant(operand) for operand in node.inputs[1:]]
    if is_operator(node, "Conv"):
        return is_depthwise(node) and all(value is not None for value in constants)
    if is_operator(node, "BatchNormalization") or not is_elementwise(node):
        return False
    same = static_shape(node.outputs[0]) == static_shape(tensor)
    return same and all(value is not None and value.size == 1 for value in constants)


def _move(uses: Uses, gather: gs.Node, reader: gs.Node) -> None:
    order = channel_order(gather)
    assert order is not None
    source, indices, output = gather.inputs[0], gather.inputs[1], reader.outputs[0]
    if is_operator(reader, "Conv"):
        inverse = np.argsort(order)
        for place, name in enumerate(("weights", "bias")[: len(reader.inputs) - 1], 1):
            values = constant(reader.inputs[place])
            assert values is not None
            reader.inputs[place] = gs.Constant(uses.fresh_name(f"{reader.name}_{name}"), values[inverse])
    before = gs.Variable(uses.fresh_name(f"{reader.name}_unordered"), output.dtype, output.shape)
    uses.remove([gather])
    reader.inputs[0] = source
    reader.outputs = [before]
    moved = gs.Node("Gather", gather.name, {"axis": 1}, [before, indices], [output])
    uses.insert_after(reader, moved)
