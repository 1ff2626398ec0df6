"""No operations: remove nodes whose output is their input: same values, same shape, same type.

Identity; Dropout outside training; Cast to the same type; Reshape, Transpose, Pad, Slice, Concat, Expand, Tile,
Resize... that change nothing; arithmetic with the neutral element (x + 0, x * 1, x ** 1), where it does not broadcast.
Not a Clip without bounds: those are the largest finite numbers, and infinities become them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import (
    ONNX_DOMAINS,
    Uses,
    constant,
    has_output,
    operand,
    same_type,
    scopes,
    static_shape,
    summary,
)
from lepton_compile.target import Target


@dataclass(frozen=True)
class NoOperations(Pass):
    """Remove nodes whose output is their input."""

    name = "no_operations"
    stage = Stage.CANONICALISE
    after = ("constant_folding", "dead_nodes")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where a node changes nothing."""
        uses = Uses(graph)
        found: list[str] = []
        refusals: list[str] = []
        for node, source in _no_operations(graph):
            if not (why := uses.why_keep(node, node.outputs[0], source)):
                found.append(node.name)
            elif not isinstance(source, gs.Constant):  # an Identity is how an output that is constant is written
                refusals.append(f"{node.name}: {why}")
        if not found:
            return Decline("every node changes something", tuple(refusals))
        return Proposal(self, f"{len(found)} nodes change nothing: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Let each one's input stand in for its output."""
        uses = Uses(graph)
        for node, _ in list(_no_operations(graph)):
            source = _source(node)  # found again: an earlier removal may have put another tensor in its place
            if source is not None and not uses.why_keep(node, node.outputs[0], source):
                uses.bypass(node, [(node.outputs[0], source)])
        return graph


def _no_operations(graph: Graph) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    for scope in scopes(graph):
        for node in scope.nodes:
            if (source := _source(node)) is not None:
                yield node, source


def _source(node: gs.Node) -> gs.Tensor | None:
    """The input that the output of `node` equals, if there is one."""
    if node.domain not in ONNX_DOMAINS or not node.inputs or not has_output(node, 0):
        return None
    if node.op == "Identity":
        return node.inputs[0]
    output = node.outputs[0]
    if node.op in _UNCHANGED:
        source = node.inputs[0]
        return source if same_type(source, output) and _UNCHANGED[node.op](node) else None
    if node.op in _NEUTRAL:
        element, commutative = _NEUTRAL[node.op]
        for index in (1, 0) if commutative else (1,):
            value, source = constant(operand(node, index)), node.inputs[1 - index]
            # bool(): the value may be of a type that has no vectorised comparison.
            if value is not None and value.size and bool(np.all(value == element)) and same_type(source, output):
                return source
    return None


def _always(node: gs.Node) -> bool:
    return True


def _dropout(node: gs.Node) -> bool:
    training = operand(node, 2)
    value = constant(training)
    # A mask that nobody reads is no output any more: see dead_nodes.
    return not has_output(node, 1) and (training is None or (value is not None and not value.any()))


def _transpose(node: gs.Node) -> bool:
    rank = len(node.inputs[0].shape)
    return list(node.attrs.get("perm", reversed(range(rank)))) == list(range(rank))


def _slice(node: gs.Node) -> bool:
    # With the shape kept, only a negative step can move elements.
    steps = operand(node, 4)
    value = np.ones(1) if steps is None else constant(steps)
    return value is not None and bool(np.all(value > 0))


def _pad(node: gs.Node) -> bool:
    # A shape can be kept by cropping one side and padding the other.
    pads = constant(operand(node, 1))
    return pads is not None and not pads.any()


def _one_input(node: gs.Node) -> bool:
    return len(node.inputs) == 1


def _resize(node: gs.Node) -> bool:
    # At the same size every coordinate maps to itself, unless a region of interest moves it.
    scales = constant(operand(node, 2))
    unscaled = operand(node, 3) is not None or (scales is not None and bool(np.all(scales == 1)))
    return unscaled and node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"


def _unit_axes(node: gs.Node) -> bool:
    """Whether a reduction with the shape kept reduces axes of size 1 only."""
    axes, shape = operand(node, 1), static_shape(node.inputs[0])
    value = constant(axes)
    if shape is None or (axes is not None and value is None):
        return False
    if value is None or value.size == 0:
        return bool(node.attrs.get("noop_with_empty_axes", 0)) or all(size == 1 for size in shape)
    return all(shape[int(axis)] == 1 for axis in value)


def _block_of_one(node: gs.Node) -> bool:
    return int(node.attrs.get("blocksize", 0)) == 1


# Nodes whose output may be their first input, given that its shape and type are the output's; and what else it takes.
_UNCHANGED: dict[str, Callable[[gs.Node], bool]] = {
    "Cast": _always,
    "CastLike": _always,
    "Concat": _one_input,
    "DepthToSpace": _block_of_one,
    "Dropout": _dropout,
    "Expand": _always,
    "Flatten": _always,
    "Max": _one_input,
    "Mean": _one_input,
    "Min": _one_input,
    "Pad": _pad,
    "ReduceMax": _unit_axes,
    "ReduceMean": _unit_axes,
    "ReduceMin": _unit_axes,
    "ReduceProd": _unit_axes,
    "ReduceSum": _unit_axes,
    "Reshape": _always,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _block_of_one,
    "Squeeze": _always,
    "Sum": _one_input,
    "Tile": _always,
    "Transpose": _transpose,
    "Unsqueeze": _always,
}

# Neutral elements, and whether they may stand on either side.
_NEUTRAL: dict[str, tuple[float, bool]] = {
    "Add": (0, True),
    "Sub": (0, False),
    "Mul": (1, True),
    "Div": (1, False),
    "Pow": (1, False),
}
