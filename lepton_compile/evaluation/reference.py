"""What answers are compared with: onnxruntime's, where it is precise.

onnxruntime computes Sigmoid by a rational function that is good to 1e-7 of 1, not of the result: it is off by 3e-4 of
it at -11, by 3e-2 at -14, and gives 0 below -18. The scores of a detector that sees nothing lie there, and a relative
comparison would blame whoever computes them right. So in models that serve as reference, Sigmoid is spelled out by its
definition, 1 / (1 + exp(-x)), every operator of which onnxruntime computes to the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from lepton_compile.model import Graph
from lepton_compile.model.execution import evaluate

Array = npt.NDArray[Any]

_ONE = "reference_one"


def reference_answers(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What a graph's outputs are for these inputs."""
    return evaluate(precise(graph.to_model(weights=False)), {**graph.large_weights(), **inputs})


def precise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which every Sigmoid of float32, in subgraphs too, is spelled out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not any(node.op_type == "Sigmoid" for graph in _graphs(copy.graph) for node in graph.node):
        return copy
    types = {
        value.name: value.type.tensor_type.elem_type
        for graph in _graphs(onnx.shape_inference.infer_shapes(model).graph)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for graph in _graphs(copy.graph):
        nodes = [spelled for node in graph.node for spelled in _spelled_out(node, types)]
        del graph.node[:]
        graph.node.extend(nodes)
    copy.graph.initializer.append(helper.make_tensor(_ONE, TensorProto.FLOAT, [], [1.0]))
    if copy.ir_version < 4:  # every initializer was an input then
        copy.graph.input.append(helper.make_tensor_value_info(_ONE, TensorProto.FLOAT, []))
    return copy


def _spelled_out(node: onnx.NodeProto, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    if node.op_type != "Sigmoid" or node.domain or types.get(node.output[0]) != TensorProto.FLOAT:
        return [node]
    (source,), (result,) = node.input, node.output
    negative, power, total = (f"{result}__{part}" for part in ("negative", "power", "total"))
    return [
        helper.make_node("Neg", [source], [negative]),
        helper.make_node("Exp", [negative], [power]),
        helper.make_node("Add", [power, _ONE], [total]),
        helper.make_node("Reciprocal", [total], [result]),
    ]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
