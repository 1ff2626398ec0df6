"""Walking over a graph and its subgraphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """The subgraphs that are attributes of this node itself, in the order of the attributes."""
    graphs: list[gs.Graph] = []
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            graphs.append(value)
        elif isinstance(value, list):
            graphs.extend(entry for entry in value if isinstance(entry, gs.Graph))
    return graphs


def walk(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes of a graph, those of a node's subgraphs right after it."""
    for node in graph.nodes:
        yield node
        for subgraph in subgraphs(node):
            yield from walk(subgraph)


def bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and all of its subgraphs, an outer one before those inside."""
    yield graph
    for node in graph.nodes:
        for subgraph in subgraphs(node):
            yield from bodies(subgraph)


def captured(graphs: Iterable[gs.Graph]) -> list[gs.Variable]:
    """The variables that subgraphs read or return but do not define, each once, in order of first use."""
    every = [body for graph in graphs for body in bodies(graph)]
    nodes = [node for body in every for node in body.nodes]
    own = {id(tensor) for node in nodes for tensor in node.outputs}
    own |= {id(tensor) for body in every for tensor in body.inputs}
    reads = [tensor for node in nodes for tensor in node.inputs] + [tensor for body in every for tensor in body.outputs]
    found = {id(t): t for t in reads if isinstance(t, gs.Variable) and t.name and id(t) not in own}
    return list(found.values())


def disconnect(node: gs.Node) -> None:
    """Take a node, and what is in its subgraphs, from the lists of producers and readers of its tensors."""
    node.inputs.clear()
    node.outputs.clear()
    for subgraph in subgraphs(node):
        for inner in subgraph.nodes:
            disconnect(inner)
