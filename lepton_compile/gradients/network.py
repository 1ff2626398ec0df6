"""A graph as a PyTorch module: nodes are functions, floating-point constants are parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

import lepton_compile.gradients.operators  # noqa: F401  (fills the table)
from lepton_compile.errors import UnsupportedOperator, UnsupportedOperatorError
from lepton_compile.gradients.registry import OPERATORS, Operation
from lepton_compile.model import Graph
from lepton_compile.rewriting.patterns import constant, is_operator


class Network(nn.Module):
    """What a graph computes, to be differentiated.

    A graph answers one sample, whose shapes its nodes name. `torch.func.vmap` of the network answers several at once.

    Args:
        graph: The graph; its nodes stand in an order in which they can run.
        outputs: Names of tensors of the main graph to compute; all outputs by default.

    Raises:
        UnsupportedOperatorError: It uses operators that PyTorch is not told of; all of them are listed.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str] | None = None) -> None:
        super().__init__()
        graph = graph.copy()
        self._outputs = [tensor.name for tensor in graph.gs.outputs] if outputs is None else list(outputs)
        self._nodes = _needed(graph, self._outputs)
        self._opset = graph.opset
        _refuse_unknown(graph, self._nodes)
        self._constants: dict[str, Tensor] = {}
        for node in self._nodes:
            for tensor in node.inputs:
                value = constant(tensor)
                if value is not None and tensor.name not in self._constants:
                    self._constants[tensor.name] = _held(value)
        self._parameters_by_name = {
            name: value for name, value in self._constants.items() if isinstance(value, nn.Parameter)
        }
        self._registered = nn.ParameterList(self._parameters_by_name.values())  # their names may hold any character
        self._last_reader = {tensor.name: place for place, node in enumerate(self._nodes) for tensor in node.inputs}

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """The floating-point constants, by the names of their tensors."""
        return self._parameters_by_name

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the graph computes.

        Args:
            inputs: A tensor for every input, of its shape and element type.

        Raises:
            UnsupportedOperatorError: A node has attributes or inputs that its function in PyTorch does not know.
        """
        known: dict[str, Tensor] = {**self._constants, **inputs}
        for place, node in enumerate(self._nodes):
            arguments = [None if tensor.is_empty() else known[tensor.name] for tensor in node.inputs]
            made = OPERATORS[node.op](Operation(node, self._opset), *arguments)
            results = made if isinstance(made, tuple) else (made,)
            if len(node.outputs) > len(results):
                Operation(node, self._opset).refuse(f"it has {len(node.outputs)} outputs")
            known |= {tensor.name: value for tensor, value in zip(node.outputs, results, strict=False) if tensor.name}
            for tensor in node.inputs:
                if self._last_reader[tensor.name] == place and tensor.name not in self._outputs:
                    known.pop(tensor.name, None)
        return {name: known[name] for name in self._outputs}


def _held(value: np.typing.NDArray[np.generic]) -> Tensor:
    # A copy: what is learned must not change the graph's array, which other graphs share.
    tensor = torch.from_numpy(np.array(value))
    return nn.Parameter(tensor) if tensor.is_floating_point() else tensor


def _needed(graph: Graph, outputs: Iterable[str]) -> list[gs.Node]:
    """The nodes that these tensors are computed by, in the graph's order."""
    wanted = set(outputs)
    found = []
    for node in reversed(graph.gs.nodes):
        if any(tensor.name in wanted for tensor in node.outputs):
            found.append(node)
            wanted |= {tensor.name for tensor in node.inputs if tensor.name}
    return found[::-1]


def _refuse_unknown(graph: Graph, nodes: Sequence[gs.Node]) -> None:
    unknown: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if not is_operator(node, *OPERATORS):
            unknown.setdefault((node.op, node.domain or ""), []).append(node.name)
    if unknown:
        reason = "it cannot be differentiated"
        raise UnsupportedOperatorError(
            [
                UnsupportedOperator(op, domain, 0 if domain else graph.opset, tuple(names), reason)
                for (op, domain), names in unknown.items()
            ]
        )
