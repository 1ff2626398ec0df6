"""What a pruned model has to answer: the original whose removed channels are zero wherever they are summed over."""

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
    at = next(number for number, each in enumerate(graph.gs.nodes) if each is node)
    graph.gs.nodes.insert(at, gs.Node("Mul", f"{node.name}_{place}_masking", {}, [tensor, mask], [made]))
    node.inputs[place] = made
