"""The nodes that one step of lowering looks at: a single ONNX node, or the body of a fused region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import FUSED_DOMAIN

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Node:
    """A node, its tensors by name; "" stands for an optional one that is missing."""

    op_type: str
    domain: str
    name: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Region:
    """Nodes that are lowered together, in order.

    Attributes:
        nodes: The nodes; nested functions are expanded, their inner tensors prefixed with the name of the call.
        constants: Values of the tensors that are known, by name.
        outputs: The tensors that others may read, with their shapes.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    outputs: Mapping[str, tuple[int, ...]]


def region_of(node: gs.Node, functions: Mapping[str, gs.Function]) -> Region:
    """A node of the graph as a region: its function's body if it is the call of a fused one."""
    constants: dict[str, Array] = {}
    names = {id(tensor): tensor.name for tensor in [*node.inputs, *node.outputs]}
    nodes = _expand(node, functions, names, constants)
    return Region(tuple(nodes), constants, {tensor.name: tuple(tensor.shape) for tensor in node.outputs if tensor.name})


def _expand(
    node: gs.Node, functions: Mapping[str, gs.Function], names: dict[int, str], constants: dict[str, Array]
) -> list[Node]:
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant):
            constants.setdefault(names[id(tensor)], tensor.values)
    inputs, outputs = _names(node.inputs, names), _names(node.outputs, names)
    if (node.domain or "") != FUSED_DOMAIN:
        return [Node(node.op, node.domain or "", node.name, dict(node.attrs), inputs, outputs)]

    function = functions[node.op]
    inner: dict[int, str] = {}
    # A missing optional input at the end of the call is a missing tensor in the body.
    for formal, actual in zip(function.inputs, (*inputs, *[""] * len(function.inputs)), strict=False):
        inner[id(formal)] = actual
    for formal, actual in zip(function.outputs, outputs, strict=True):
        inner[id(formal)] = actual
    for child in function.nodes:
        for tensor in [*child.inputs, *child.outputs]:
            inner.setdefault(id(tensor), f"{node.name}/{tensor.name}" if tensor.name else "")
    nodes: list[Node] = []
    for child in function.nodes:
        if child.op == "Constant" and not child.domain:
            constants[inner[id(child.outputs[0])]] = _constant_value(child)
        else:
            nodes.extend(_expand(_named(child, node.name), functions, inner, constants))
    return nodes


def _named(child: gs.Node, prefix: str) -> gs.Node:
    """The node itself; a copy with a name where fusion left none, so that nested regions stay apart."""
    if not child.name:
        child.name = f"{prefix}/{child.outputs[0].name}"
    return child


def _names(tensors: Sequence[gs.Tensor], names: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(names[id(tensor)] for tensor in tensors)


def _constant_value(node: gs.Node) -> Array:
    value = node.attrs["value"]
    values: Array = value.values if isinstance(value, gs.Constant) else value
    return values
