"""What answers are compared with: onnxruntime's, where it is precise.

Two operators of onnxruntime lose digits that a relative comparison counts, and whoever computes them right would be
blamed. In models that serve as reference they are spelled out in operators that are right to the last digits:

- Sigmoid is a rational function there that is good to 1e-7 of 1, not of the result: it is off by 3e-4 of it at -11, by
  3e-2 at -14, and 0 below -18, where the scores of a detector that sees nothing lie. Spelled out: 1 / (1 + exp(-x)).
- GlobalAveragePool adds up a channel in order, in float32: over a flat picture of 160 x 160 it is off by 1e-4: the
  roundings all go one way. Spelled out: the mean of float64.
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
    """A copy of a model in which every Sigmoid and GlobalAveragePool of float32, in subgraphs too, is spelled out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    used = {node.op_type for graph in _graphs(copy.graph) for node in graph.node}
    if not used & {"Sigmoid", "GlobalAveragePool"}:
        return copy
    types = {
        value.name: value.type.tensor_type
        for graph in _graphs(onnx.shape_inference.infer_shapes(model).graph)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for graph in _graphs(copy.graph):
        nodes = [spelled for node in graph.node for spelled in _spelled_out(node, types, opset)]
        del graph.node[:]
        graph.node.extend(nodes)
    if "Sigmoid" in used:
        copy.graph.initializer.append(helper.make_tensor(_ONE, TensorProto.FLOAT, [], [1.0]))
        if copy.ir_version < 4:  # every initializer was an input then
            copy.graph.input.append(helper.make_tensor_value_info(_ONE, TensorProto.FLOAT, []))
    return copy


def _spelled_out(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto.Tensor], opset: int) -> list[onnx.NodeProto]:
    kind = types.get(node.output[0]) if node.output else None
    if node.domain or kind is None or kind.elem_type != TensorProto.FLOAT:
        return [node]
    if node.op_type == "Sigmoid":
        return _sigmoid(node.input[0], node.output[0])
    if node.op_type == "GlobalAveragePool" and kind.HasField("shape"):
        return _global_average(node.input[0], node.output[0], len(kind.shape.dim), opset)
    return [node]


def _sigmoid(source: str, result: str) -> list[onnx.NodeProto]:
    negative, power, total = (f"{result}__{part}" for part in ("negative", "power", "total"))
    return [
        helper.make_node("Neg", [source], [negative]),
        helper.make_node("Exp", [negative], [power]),
        helper.make_node("Add", [power, _ONE], [total]),
        helper.make_node("Reciprocal", [total], [result]),
    ]


def _global_average(source: str, result: str, rank: int, opset: int) -> list[onnx.NodeProto]:
    wide, axes, mean = (f"{result}__{part}" for part in ("wide", "axes", "mean"))
    spatial = list(range(2, rank))
    if opset < 18:
        reduction = [helper.make_node("ReduceMean", [wide], [mean], axes=spatial)]
    else:
        values = helper.make_tensor(axes, TensorProto.INT64, [len(spatial)], spatial)
        reduction = [
            helper.make_node("Constant", [], [axes], value=values),
            helper.make_node("ReduceMean", [wide, axes], [mean]),
        ]
    return [
        helper.make_node("Cast", [source], [wide], to=TensorProto.DOUBLE),
        *reduction,
        helper.make_node("Cast", [mean], [result], to=TensorProto.FLOAT),
    ]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
