"""Copying a graph.

graphsurgeon's own copy gives each subgraph its own copy of the outer constants that it reads, and shares the functions.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def replicate(graph: gs.Graph) -> gs.Graph:
    """A copy whose nodes, tensors, subgraphs and functions are its own; the arrays are shared."""
    copy = _graph(graph, {})
    copy.functions = [_function(function) for function in graph.functions]
    return copy


def _graph(graph: gs.Graph, tensors: dict[int, gs.Tensor]) -> gs.Graph:
    copy = gs.Graph(
        inputs=[_tensor(tensor, tensors) for tensor in graph.inputs],
        nodes=[_node(node, tensors) for node in graph.nodes],
        outputs=[_tensor(tensor, tensors) for tensor in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=graph.import_domains,
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        ir_version=graph.ir_version,
    )
    return copy


def _function(function: gs.Function) -> gs.Function:
    tensors: dict[int, gs.Tensor] = {}
    return gs.Function(
        function.name,
        function.domain,
        inputs=[_tensor(tensor, tensors) for tensor in function.inputs],
        nodes=[_node(node, tensors) for node in function.nodes],
        outputs=[_tensor(tensor, tensors) for tensor in function.outputs],
        doc_string=function.doc_string,
        opset=function.opset,
        import_domains=function.import_domains,
        attrs=dict(function.attrs),
    )


def _node(node: gs.Node, tensors: dict[int, gs.Tensor]) -> gs.Node:
    return gs.Node(
        node.op,
        node.name,
        attrs={name: _attribute(value, tensors) for name, value in node.attrs.items()},
        inputs=[_tensor(tensor, tensors) for tensor in node.inputs],
        outputs=[_tensor(tensor, tensors) for tensor in node.outputs],
        domain=node.domain,
    )


def _attribute(value: object, tensors: dict[int, gs.Tensor]) -> object:
    if isinstance(value, gs.Graph):
        return _graph(value, tensors)
    if isinstance(value, list):
        return [_attribute(entry, tensors) for entry in value]
    return value


def _tensor(tensor: gs.Tensor, tensors: dict[int, gs.Tensor]) -> gs.Tensor:
    if not tensor.name:
        return gs.Variable.empty()
    if id(tensor) not in tensors:
        tensors[id(tensor)] = tensor.copy()
    return tensors[id(tensor)]
