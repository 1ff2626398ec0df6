"""How many multiply-adds the products of a graph take: what pruning is said to halve."""

from __future__ import annotations

import math

from lepton_compile.model import Graph
from lepton_compile.rewriting.patterns import is_operator


def multiplications(graph: Graph) -> dict[str, float]:
    """Multiply-adds of each node that multiplies matrices, by its name: of known weights, and of two activations."""
    found = {}
    for node in graph.gs.nodes:
        if is_operator(node, "Conv"):
            # Each output is a sum over the taps and channels of a group.
            count = math.prod(node.outputs[0].shape) * math.prod(node.inputs[1].shape[1:])
        elif is_operator(node, "ConvTranspose"):
            # Each input goes to the taps and channels of a group.
            count = math.prod(node.inputs[0].shape) * math.prod(node.inputs[1].shape[1:])
        elif is_operator(node, "Gemm"):
            count = math.prod(node.outputs[0].shape) * node.inputs[0].shape[0 if node.attrs.get("transA", 0) else 1]
        elif is_operator(node, "MatMul"):
            count = math.prod(node.outputs[0].shape) * node.inputs[0].shape[-1]
        elif is_operator(node, "GRU", "LSTM", "RNN"):
            # Every step of every row multiplies what it reads, and its state.
            steps, rows = (node.inputs[0].shape[axis] for axis in (0, 1))
            count = steps * rows * sum(math.prod(node.inputs[place].shape) for place in (1, 2))
        else:
            continue
        found[node.name] = float(count)
    return found
