"""What a pruned model has to answer: the original whose removed channels are zero wherever they are summed over.

What normalises over channels does so over those that are left.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure


def masked(graph: Graph, structure: Structure, channels: Set[int]) -> Graph:
    """The graph with a mask on what every sum over channels reads."""
    made = graph.copy()
    removed = np.array(sorted(channels), np.int64)
    for node in list(made.gs.nodes):
        if node.op == "LayerNormalization":
            kept = np.isin(structure.axes[node.inputs[0].name][-1], removed, invert=True)
            if not kept.all():
                _normalize_over(made, node, kept)
        elif node.op == "ReduceMean":
            (axis,) = (int(axis) for axis in node.inputs[1].values)
            kept = np.isin(structure.axes[node.inputs[0].name][axis], removed, invert=True)
            if not kept.all():
                _mask(made, node, 0, axis % len(node.inputs[0].shape), kept)
                _average(made, node, int(kept.sum()))
        for place, axis in _summed(node):
            tensor = node.inputs[place]
            kept = np.isin(structure.axes[tensor.name][axis], removed, invert=True)
            if not kept.all():
                _mask(made, node, place, axis, kept)
    made.infer_shapes()
    return made


def _summed(node: gs.Node) -> list[tuple[int, int]]:
    """The inputs of a node that it sums over channels of, and their axes."""
    rank = len(node.inputs[0].shape) if node.inputs and node.inputs[0].shape is not None else 0
    match node.op:
        case "Conv" | "ConvTranspose" if int(node.attrs.get("group", 1)) == 1:
            return [(0, 1)]
        case "Conv" | "ConvTranspose" if int(node.attrs["group"]) < node.inputs[0].shape[1]:
            return [(0, 1)]  # whole groups go, with what is made of them
        case "Gemm":
            return [(0, 0 if node.attrs.get("transA", 0) else 1)]
        case "MatMul":
            return [(0, rank - 1)]
        case "LSTM" | "GRU" | "RNN":
            return [(0, 2), (2, 2)]
    return []


def _mask(graph: Graph, node: gs.Node, place: int, axis: int, kept: np.ndarray) -> None:
    tensor = node.inputs[place]
    shape = [len(kept) if number == axis else 1 for number in range(len(tensor.shape))]
    mask = gs.Constant(f"{node.name}_{place}_mask", kept.astype(np.float32).reshape(shape))
    made = gs.Variable(f"{node.name}_{place}_masked", np.dtype(np.float32), tensor.shape)
    at = _place(graph, node)
    graph.gs.nodes.insert(at, gs.Node("Mul", f"{node.name}_{place}_masking", {}, [tensor, mask], [made]))
    node.inputs[place] = made


def _normalize_over(graph: Graph, node: gs.Node, kept: np.ndarray) -> None:
    """Let a LayerNormalization be spelled out, with means over the channels that are left."""
    x, scale, *bias = node.inputs
    mask = gs.Constant(f"{node.name}_kept", (kept / kept.sum()).astype(np.float32))
    nodes: list[gs.Node] = []

    def add(op: str, *inputs: gs.Tensor, output: gs.Tensor | None = None, **attributes: object) -> gs.Tensor:
        made = output or gs.Variable(f"{node.name}_over_{len(nodes)}", np.dtype(np.float32))
        nodes.append(gs.Node(op, f"{node.name}_over_{len(nodes)}", attributes, list(inputs), [made]))
        return made

    def mean(of: gs.Tensor) -> gs.Tensor:
        axes = gs.Constant(f"{node.name}_axes_{len(nodes)}", np.array([-1], np.int64))
        return add("ReduceSum", add("Mul", of, mask), axes, keepdims=1)

    centred = add("Sub", x, mean(x))
    epsilon = gs.Constant(f"{node.name}_epsilon", np.array(node.attrs.get("epsilon", 1e-5), np.float32))
    deviation = add("Sqrt", add("Add", mean(add("Mul", centred, centred)), epsilon))
    last = node.outputs[0]
    made = add("Mul", add("Div", centred, deviation), scale, output=None if bias else last)
    if bias:
        add("Add", made, bias[0], output=last)
    at = _place(graph, node)
    node.outputs.clear()
    graph.gs.nodes[at : at + 1] = nodes


def _average(graph: Graph, node: gs.Node, count: int) -> None:
    """Let a mean be a sum over so many, exactly: of one channel that is left its mean is itself."""
    mean = node.outputs[0]
    total = gs.Variable(f"{node.name}_total", np.dtype(np.float32), mean.shape)
    node.op, node.outputs = "ReduceSum", [total]
    divisor = gs.Constant(f"{node.name}_count", np.array(count, np.float32))
    at = _place(graph, node)
    graph.gs.nodes.insert(at + 1, gs.Node("Div", f"{node.name}_average", {}, [total, divisor], [mean]))


def _place(graph: Graph, node: gs.Node) -> int:
    """Where a node stands; nodes that are alike are equal, too."""
    return next(number for number, each in enumerate(graph.gs.nodes) if each is node)
