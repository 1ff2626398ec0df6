"""Dead nodes: remove nodes, optional outputs and functions that no output of the model depends on.

A node is live when a live tensor is computed by it; outputs of the model and of every function are live, and so is
what a live node reads, in its own inputs or inside its branch and loop bodies. ONNX operators have no side effects,
so the rest goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.traversal import subgraphs, walk
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import ONNX_DOMAINS, Uses, scopes, summary
from lepton_compile.target import Target


@dataclass(frozen=True)
class DeadNodes(Pass):
    """Remove nodes, optional outputs and functions that no output of the model depends on."""

    name = "dead_nodes"
    stage = Stage.CANONICALISE

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where something is dead."""
        found = [node.name for node in _dead_nodes(graph)]
        found += [f"output '{node.outputs[index].name}' of {node.name}" for node, index in _unread_outputs(graph)]
        found += [f"function {function.name}" for function in _uncalled_functions(graph)]
        if not found:
            return Decline("every node serves an output")
        return Proposal(self, f"{len(found)} serve no output: {summary(found)}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Remove them."""
        Uses(graph).remove(_dead_nodes(graph))
        for node, index in _unread_outputs(graph):
            node.outputs[index] = gs.Variable.empty()
            while node.outputs[-1].is_empty():
                node.outputs.pop()
        uncalled = {id(function) for function in _uncalled_functions(graph)}
        if uncalled:
            graph.gs.functions = [function for function in graph.gs.functions if id(function) not in uncalled]
        return graph


def _dead_nodes(graph: Graph) -> list[gs.Node]:
    live: set[int] = set()
    waiting = [tensor for outermost in (graph.gs, *graph.gs.functions) for tensor in outermost.outputs]
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) not in live:
                live.add(id(node))
                waiting += node.inputs
                for body in subgraphs(node):
                    waiting += body.outputs
    return [node for scope in scopes(graph) for node in scope.nodes if id(node) not in live]


def _unread_outputs(graph: Graph) -> Iterator[tuple[gs.Node, int]]:
    """Outputs that the operator may leave out and nobody reads, the last of a node first."""
    uses = Uses(graph)
    for scope in scopes(graph):
        for node in scope.nodes:
            # In training mode BatchNormalization has to have all its outputs.
            if len(node.outputs) < 2 or node.domain not in ONNX_DOMAINS or node.attrs.get("training_mode"):
                continue
            unread = [
                index
                for index, tensor in enumerate(node.outputs)
                if not tensor.is_empty() and not tensor.outputs and not uses.is_output(tensor)
            ]
            if 0 < len(unread) < len(node.outputs):
                optional = _optional_outputs(node.op, graph.opset)
                yield from ((node, index) for index in reversed(unread) if index in optional)


def _optional_outputs(op_type: str, opset: int) -> set[int]:
    try:
        outputs = onnx.defs.get_schema(op_type, opset, "").outputs
    except onnx.defs.SchemaError:
        return set()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {index for index, output in enumerate(outputs) if output.option == optional}


def _uncalled_functions(graph: Graph) -> list[gs.Function]:
    functions = {(function.domain, function.name): function for function in graph.gs.functions}
    called: set[tuple[str, str]] = set()
    waiting: list[gs.Graph] = [graph.gs]
    while waiting:
        outermost = waiting.pop()
        for node in walk(outermost):
            key = (node.domain or "", node.op)
            if key in functions and key not in called:
                called.add(key)
                waiting.append(functions[key])
    return [function for key, function in functions.items() if key not in called]
