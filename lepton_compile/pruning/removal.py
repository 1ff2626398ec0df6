"""Removing channels: smaller weights, and the sizes that nodes name, as they are then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure, weights_of
from lepton_compile.rewriting.patterns import Uses, constant, operand

Mask: TypeAlias = npt.NDArray[np.bool_]


def remove(graph: Graph, structure: Structure, channels: Set[int]) -> Graph:
    """Remove channels of a graph.

    Args:
        graph: Changed in place.
        structure: What `find_groups` says of it.
        channels: Labels of channels of groups that may go; of each group at least one is left.
    """
    removal = _Removal(graph, structure, channels)
    for node in graph.gs.nodes:
        if adjust := _ADJUSTMENTS.get(node.op):
            adjust(node, removal)
    for weights in weights_of(graph):
        for axis in range(weights.values.ndim if weights.name in structure.axes else 0):
            if not (kept := removal.kept(weights, axis)).all():
                weights.values = np.compress(kept, weights.values, axis=axis)
    graph.infer_shapes()
    return graph


class _Removal:
    """Which indices stay, by tensors and axes; asked before anything is removed."""

    def __init__(self, graph: Graph, structure: Structure, channels: Set[int]) -> None:
        self._axes = structure.axes
        self._channels = np.array(sorted(channels), np.int64)
        self._fresh_name = Uses(graph).fresh_name

    def kept(self, tensor: gs.Tensor, axis: int) -> Mask:
        """Which indices of an axis stay."""
        return np.isin(self._axes[tensor.name][axis], self._channels, invert=True)

    def sizes(self, tensor: gs.Tensor) -> list[int]:
        """The shape of what is left of a tensor."""
        return [int(self.kept(tensor, axis).sum()) for axis in range(len(self._axes[tensor.name]))]

    def give(self, node: gs.Node, place: int, values: npt.ArrayLike) -> None:
        """Let a node read these integers."""
        while len(node.inputs) <= place:
            node.inputs.append(gs.Variable.empty())
        node.inputs[place] = gs.Constant(self._fresh_name(f"{node.name}_sizes"), np.array(values, np.int64))


def _convolution(node: gs.Node, removal: _Removal) -> None:
    groups = int(node.attrs.get("group", 1))
    if groups > 1:
        kept = removal.kept(node.inputs[0], 1)
        node.attrs["group"] = int(kept.sum()) * groups // len(kept)


def _recurrent(node: gs.Node, removal: _Removal) -> None:
    node.attrs["hidden_size"] = int(removal.kept(node.inputs[2], 2).sum())


def _named_sizes(place: int) -> Callable[[gs.Node, _Removal], None]:
    """Operators that read the shape of their result."""

    def adjust(node: gs.Node, removal: _Removal) -> None:
        named = constant(operand(node, place))
        before, after = node.outputs[0].shape, removal.sizes(node.outputs[0])
        if named is not None and named.size and list(before) != after:
            # 0 and -1 go on standing for what they stood for, and the 1 of a broadcast for any size.
            axes = node.attrs.get("axes", range(len(after) - named.size, len(after)))
            changed = [
                after[axis] if size == before[axis] else size for size, axis in zip(named.tolist(), axes, strict=True)
            ]
            removal.give(node, place, changed)

    return adjust


def _split(node: gs.Node, removal: _Removal) -> None:
    axis = int(node.attrs.get("axis", 0))
    node.attrs.pop("num_outputs", None)
    removal.give(node, 1, [removal.sizes(tensor)[axis] for tensor in node.outputs])


def _slice(node: gs.Node, removal: _Removal) -> None:
    starts, ends, axes, steps = (constant(operand(node, place)) for place in range(1, 5))
    if starts is None or ends is None:
        return
    first, last = starts.astype(np.int64), ends.astype(np.int64)
    for number, axis in enumerate(range(len(starts)) if axes is None else axes.tolist()):
        kept = removal.kept(node.inputs[0], axis)
        if kept.all():
            continue
        step = 1 if steps is None else int(steps[number])
        start, end, _ = slice(int(first[number]), int(last[number]), step).indices(len(kept))
        # As many stay before the ends as do; the end of a slice that goes down may lie before the first index.
        before = np.concatenate([[0], np.cumsum(kept)])
        if step > 0:
            first[number], last[number] = before[start], before[end]
        else:
            first[number] = before[start + 1] - 1
            last[number] = before[end + 1] - 1 if before[end + 1] else -len(kept) - 1
    removal.give(node, 1, first)
    removal.give(node, 2, last)


def _gather(node: gs.Node, removal: _Removal) -> None:
    axis = int(node.attrs.get("axis", 0))
    kept, indices = removal.kept(node.inputs[0], axis), constant(node.inputs[1])
    if indices is not None and not kept.all():
        places = indices.astype(np.int64) % len(kept)
        removal.give(node, 1, (np.cumsum(kept) - 1)[places[kept[places]]])


_ADJUSTMENTS: Mapping[str, Callable[[gs.Node, _Removal], Any]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Expand": _named_sizes(1),
    "GRU": _recurrent,
    "Gather": _gather,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Reshape": _named_sizes(1),
    "Resize": _named_sizes(3),
    "Slice": _slice,
    "Split": _split,
}
