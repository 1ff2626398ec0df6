"""Labels of the indices of every tensor's axes, and what all that gives them shares.

A transfer function joins labels of what a node reads and gives each axis of its outputs labels. An operator that has
none freezes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model.traversal import captured, subgraphs, walk
from lepton_compile.pruning.channels import Channels, Labels, fixed, is_fixed

Axes: TypeAlias = list[Labels]


class Labelling:
    """Labels of the axes of every tensor of a graph, as far as its nodes have been seen.

    Attributes:
        channels: The labels.
        axes: Those of each axis, by the names of the tensors.
    """

    def __init__(self) -> None:
        self.channels = Channels()
        self.axes: dict[str, Axes] = {}

    def of(self, tensor: gs.Tensor) -> Axes:
        """The labels of each axis of a tensor; new ones of a constant that was not seen before."""
        if tensor.name not in self.axes:
            sizes = tensor.shape
            known = isinstance(tensor, gs.Constant)
            self.axes[tensor.name] = [self.channels.new(size) if known and size > 1 else fixed(size) for size in sizes]
        return self.axes[tensor.name]

    def set(self, tensor: gs.Tensor, axes: Axes) -> None:
        """Say what the labels of a node's output are."""
        sizes = [len(labels) for labels in axes]
        assert sizes == list(tensor.shape), f"'{tensor.name}' is of shape {tensor.shape}, not {sizes}"
        self.axes[tensor.name] = axes

    def fix(self, tensor: gs.Tensor, axes: Iterable[int], node: gs.Node) -> None:
        """Say that no channels lie along these axes of what a node reads."""
        seen = tensor.name in self.axes or not isinstance(tensor, gs.Constant)
        for axis in axes:
            if seen:
                self.freeze(self.of(tensor)[axis], node, "does not take channels along this axis")
            else:
                self.of(tensor)[axis] = fixed(tensor.shape[axis])

    def join(self, ones: Labels, others: Labels, node: gs.Node) -> None:
        """Join labels that a node takes together."""
        self.channels.join(ones, others, f"{named(node)} takes it together with what is no channel")

    def together(self, blocks: Labels, node: gs.Node) -> Labels:
        """Join all labels of each row, and give one for each."""
        for column in blocks.T[1:]:
            self.join(blocks[:, 0], column, node)
        return np.ascontiguousarray(blocks[:, 0])

    def freeze(self, labels: Labels, node: gs.Node, why: str) -> None:
        """Let indices stay, because of a node."""
        if not is_fixed(labels):
            self.channels.freeze(labels, f"{named(node)} {why}")


Transfer: TypeAlias = Callable[[gs.Node, Labelling], None]

TRANSFERS: dict[str, Transfer] = {}
"""By operator; element-wise ones are not listed."""


def transfer(*operators: str) -> Callable[[Transfer], Transfer]:
    """Make a function the transfer function of operators."""

    def register(function: Transfer) -> Transfer:
        TRANSFERS.update(dict.fromkeys(operators, function))
        return function

    return register


def named(node: gs.Node) -> str:
    """A node, for reasons."""
    return f"{node.name} ({node.op})"


def stay(node: gs.Node, labelling: Labelling) -> None:
    """Nothing is known of the operator: what it reads, in its subgraphs too, stays."""
    inner = (tensor for each in subgraphs(node) for below in walk(each) for tensor in below.inputs)
    known = (tensor for tensor in inner if isinstance(tensor, gs.Constant))
    for tensor in (*node.inputs, *captured(subgraphs(node)), *known):
        if not tensor.is_empty() and tensor.shape is not None:
            for labels in labelling.of(tensor):
                labelling.freeze(labels, node, "is an operator that channels are not followed through")
    for tensor in node.outputs:
        if not tensor.is_empty() and tensor.shape is not None:
            labelling.set(tensor, [fixed(size) for size in tensor.shape])


def broadcast(shapes: Sequence[Axes], rank: int, node: gs.Node, labelling: Labelling) -> Axes:
    """The axes of a result that operands are broadcast to, each axis joined."""
    found: Axes = []
    for place in range(-rank, 0):
        meeting = [axes[place] for axes in shapes if len(axes) >= -place]
        size = max(len(labels) for labels in meeting)
        wide = [labels for labels in meeting if len(labels) == size]
        for labels in wide[1:]:
            labelling.join(wide[0], labels, node)
        found.append(next((labels for labels in wide if not is_fixed(labels)), wide[0]))
    return found


def moves_over(axes: Sequence[Labels], node: gs.Node, labelling: Labelling) -> None:
    """Let indices of axes stay that a node moves over: places, not channels."""
    for labels in axes:
        labelling.freeze(labels, node, "moves over this axis")


def set_over_positions(node: gs.Node, labelling: Labelling, x: Axes, made: Labels) -> None:
    """The result of what moves over positions, with these channels."""
    moves_over(x[2:], node, labelling)
    labelling.set(node.outputs[0], [x[0], made, *(fixed(size) for size in node.outputs[0].shape[2:])])
