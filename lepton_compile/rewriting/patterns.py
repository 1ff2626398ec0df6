"""Finding patterns in a graph and replacing them, without breaking what lies around them.

A graph has several scopes: the main graph, the bodies of If, Loop and Scan, and the bodies of model-local functions. A
tensor knows the nodes that read it in every scope, but not that a scope hands it out as an output; `Uses` knows both.

Tensors of onnx-graphsurgeon compare equal by name, and nodes by all that they hold; here they are told apart by
identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.from_onnx import UniqueNames
from lepton_compile.model.traversal import bodies, disconnect

ONNX_DOMAINS = (None, "", "ai.onnx")


def scopes(graph: Graph) -> Iterator[gs.Graph]:
    """The main graph, then the bodies inside its nodes, then every function's body and the bodies inside it."""
    for outermost in (graph.gs, *graph.gs.functions):
        yield from bodies(outermost)


def is_operator(node: gs.Node | None, *op_types: str) -> TypeGuard[gs.Node]:
    """Whether `node` is one of these operators of ONNX's own domain."""
    return node is not None and node.op in op_types and node.domain in ONNX_DOMAINS


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes `tensor`; None for constants and for inputs of a scope."""
    return tensor.inputs[0] if tensor.inputs else None


def constant(tensor: gs.Tensor | None) -> npt.NDArray[Any] | None:
    """The value of `tensor` where it is known: an initializer, or the output of a Constant node; else None."""
    if tensor is None or tensor.is_empty():
        return None
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    node = producer(tensor)
    if node is None or not is_operator(node, "Constant"):
        return None
    value = node.attrs.get("value")
    return np.asarray(value.values) if isinstance(value, gs.Constant) else None


def operand(node: gs.Node, index: int) -> gs.Tensor | None:
    """The input at `index`; None where it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def has_output(node: gs.Node, index: int) -> bool:
    """Whether `node` names an output at `index`."""
    return index < len(node.outputs) and not node.outputs[index].is_empty()


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape of `tensor` where every dimension is a known number, else None."""
    if tensor.shape is None or not all(isinstance(size, (int, np.integer)) for size in tensor.shape):
        return None
    return tuple(int(size) for size in tensor.shape)


def same_type(one: gs.Tensor, other: gs.Tensor) -> bool:
    """Whether both tensors are known to have the same shape and element type."""
    shape = static_shape(one)
    return shape is not None and shape == static_shape(other) and one.dtype is not None and one.dtype == other.dtype


def summary(places: Sequence[str], limit: int = 4) -> str:
    """Names for a reason of one line: the first few, and how many more."""
    more = f" and {len(places) - limit} more" if len(places) > limit else ""
    return ", ".join(places[:limit]) + more


class Uses:
    """Which scope each node lies in, and which tensors are outputs of a scope.

    It describes the graph as it was when it was made, and keeps up with the edits that it makes itself.
    """

    def __init__(self, graph: Graph) -> None:
        self._scope: dict[int, gs.Graph] = {}
        self._handed_out: dict[int, list[gs.Graph]] = {}
        names: set[str] = set()
        for scope in scopes(graph):
            for node in scope.nodes:
                self._scope[id(node)] = scope
                names.update((node.name, *(tensor.name for tensor in (*node.inputs, *node.outputs))))
            for tensor in (*scope.inputs, *scope.outputs):
                names.add(tensor.name)
            for tensor in scope.outputs:
                self._handed_out.setdefault(id(tensor), []).append(scope)
        self._names = UniqueNames(names)

    def scope(self, node: gs.Node) -> gs.Graph:
        """The scope that `node` lies in."""
        return self._scope[id(node)]

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether some scope hands `tensor` out as an output."""
        return id(tensor) in self._handed_out

    def fresh_name(self, base: str) -> str:
        """A name for a node or tensor that nothing in the graph has: `base`, or `base` with a number."""
        return self._names.new(base)

    def other_use(self, tensor: gs.Tensor, node: gs.Node) -> str:
        """Why `tensor` is more than read once, by `node`, in the scope it is computed in; "" if it is not more."""
        if self.is_output(tensor):
            return f"'{tensor.name}' is an output as well"
        others = [reader for reader in tensor.outputs if reader is not node]
        if others:
            return f"'{tensor.name}' is used by {others[0].name} as well"
        if len(tensor.outputs) > 1:
            return f"'{tensor.name}' is read twice by {node.name}"
        source = producer(tensor)
        if source is not None and self.scope(source) is not self.scope(node):
            return f"'{tensor.name}' is computed outside the branch or loop that uses it"
        return ""

    def why_keep(self, node: gs.Node, output: gs.Tensor, source: gs.Tensor) -> str:
        """Why `source` cannot stand in for `output` of `node`, so that `node` has to stay; "" if it can.

        An output of a scope keeps its name, so the producer of `source` would have to compute it under that name: it
        must lie in the same scope, and `source` must not be an output itself.
        """
        handed_out = self._handed_out.get(id(output), [])
        if not handed_out:
            return ""
        if any(scope is not self.scope(node) for scope in handed_out):
            return f"'{output.name}' is an output of an inner branch or loop"
        source_node = producer(source)
        if source_node is None or self.scope(source_node) is not self.scope(node):
            return f"it gives the output '{output.name}' the value of '{source.name}'"
        if self.is_output(source):
            return f"'{output.name}' and '{source.name}' are both outputs"
        return ""

    def bypass(self, node: gs.Node, pairs: Iterable[tuple[gs.Tensor, gs.Tensor]]) -> None:
        """Remove `node`; for each (output, source) of `pairs`, `source` stands in for `output` from now on.

        `why_keep` must have found no objection to any pair.
        """
        pairs = tuple(pairs)
        self.remove([node])
        for output, source in pairs:
            stays, goes = (output, source) if self.is_output(output) else (source, output)
            source_node = producer(source)
            if stays is output and source_node is not None:
                source_node.outputs[_position(source_node.outputs, source)] = output
            for reader in list(goes.outputs):
                for index, tensor in enumerate(reader.inputs):
                    if tensor is goes:
                        reader.inputs[index] = stays

    def remove(self, nodes: Iterable[gs.Node]) -> None:
        """Take nodes out of their scopes, with the bodies in them; their tensors are left without producer."""
        nodes = list(nodes)
        gone = {id(node) for node in nodes}
        for scope in {id(self.scope(node)): self.scope(node) for node in nodes}.values():
            scope.nodes[:] = [node for node in scope.nodes if id(node) not in gone]
        for node in nodes:
            disconnect(node)
            del self._scope[id(node)]

    def insert_after(self, node: gs.Node, new: gs.Node) -> None:
        """Put `new` right behind `node`, in its scope."""
        self._insert(node, new, 1)

    def insert_before(self, node: gs.Node, new: gs.Node) -> None:
        """Put `new` right before `node`, in its scope."""
        self._insert(node, new, 0)

    def _insert(self, node: gs.Node, new: gs.Node, distance: int) -> None:
        scope = self.scope(node)
        scope.nodes.insert(_position(scope.nodes, node) + distance, new)
        self._scope[id(new)] = scope


def _position(items: Sequence[object], item: object) -> int:
    return next(index for index, candidate in enumerate(items) if candidate is item)
