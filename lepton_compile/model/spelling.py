"""Replacing nodes by others that compute the same, while a graph is being imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.errors import UnsupportedOperator, UnsupportedOperatorError
from lepton_compile.model.from_onnx import UniqueNames
from lepton_compile.model.traversal import bodies, disconnect, walk


class CannotSpellError(Exception):
    """A node cannot be said in other operators; the message says why."""


class Writer:
    """The nodes that take one node's place.

    Attributes:
        node: The node that they replace.
        opset: The version of ONNX's own operators that the graph is in.
        nodes: What was written so far.
    """

    def __init__(self, node: gs.Node, opset: int, names: UniqueNames) -> None:
        self.node = node
        self.opset = opset
        self.nodes: list[gs.Node] = []
        self._names = names
        self._base = node.name or node.outputs[0].name

    def operand(self, index: int) -> gs.Tensor | None:
        """The node's input at `index`; None where it is left out."""
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) and inputs[index].name else None

    def required(self, index: int) -> gs.Tensor:
        """The node's input at `index`.

        Raises:
            CannotSpellError: It is left out.
        """
        found = self.operand(index)
        if found is None:
            raise CannotSpellError(f"its input {index} is missing")
        return found

    def constant(self, index: int) -> npt.NDArray[Any] | None:
        """The value of the node's input at `index`; None where it is left out.

        Raises:
            CannotSpellError: It is computed.
        """
        found = self.operand(index)
        if found is None:
            return None
        if not isinstance(found, gs.Constant):
            raise CannotSpellError(f"its input {index} is computed")
        return np.asarray(found.values)

    def attributes(self, *names: str) -> dict[str, Any]:
        """Those of these attributes that the node has."""
        return {name: self.node.attrs[name] for name in names if name in self.node.attrs}

    def value(self, values: npt.NDArray[Any], name: str) -> gs.Constant:
        """A new constant."""
        return gs.Constant(self._names.new(f"{self._base}/{name}"), values)

    def write(
        self, op: str, *inputs: gs.Tensor | None, into: gs.Tensor | None = None, outputs: int = 1, **attributes: Any
    ) -> Any:
        """Write a node of one of ONNX's own operators; inputs at the end that are None are left out.

        Returns:
            Its output, `into` if given, or a list of several.
        """
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        name = self._names.new(f"{self._base}/{op}")
        made = [into] if into is not None else [self._fresh(op) for _ in range(outputs)]
        read = [gs.Variable.empty() if tensor is None else tensor for tensor in given]
        self.nodes.append(gs.Node(op, name, attributes, read, made))
        return made[0] if len(made) == 1 else made

    def _fresh(self, op: str) -> gs.Variable:
        return gs.Variable(self._names.new(f"{self._base}/{op}_output"))


# Writes what computes the node's output, which it gives to the last node as it is.
Spelling: TypeAlias = Callable[[Writer, gs.Tensor], None]


def spell_out(graph: gs.Graph, domain: str, spellings: Mapping[str, Spelling]) -> None:
    """Replace the operators of a domain, in a graph and in the graphs inside its nodes.

    Args:
        graph: It is changed.
        domain: The operators' domain.
        spellings: How to say each of them otherwise.

    Raises:
        UnsupportedOperatorError: Nodes for which there is no spelling, all of them.
    """
    if not any(node.domain == domain for node in walk(graph)):
        return
    tensors = (tensor.name for node in walk(graph) for tensor in (*node.inputs, *node.outputs))
    names = UniqueNames((*tensors, *(node.name for node in walk(graph))))
    versions = {entry.domain: entry.version for entry in graph.import_domains or ()}
    refused: dict[tuple[str, str], list[str]] = {}
    for body in bodies(graph):
        made: list[gs.Node] = []
        for node in body.nodes:
            if node.domain != domain:
                made.append(node)
                continue
            writer = Writer(node, graph.opset, names)
            output = node.outputs[0]
            node.outputs.clear()  # the node that is written for it is its only producer
            try:
                spellings[node.op](writer, output)
            except CannotSpellError as reason:
                refused.setdefault((node.op, str(reason)), []).append(node.name or output.name)
            disconnect(node)
            made.extend(writer.nodes)
        body.nodes[:] = made
    if refused:
        version = versions.get(domain, 0)
        raise UnsupportedOperatorError(
            [UnsupportedOperator(op, domain, version, tuple(nodes), why) for (op, why), nodes in refused.items()]
        )
