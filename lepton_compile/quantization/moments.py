"""Second moments E[x x'] of what layers multiply by their weights, over samples.

So many vectors of each sample are drawn that all samples together give `DRAWN`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import DRAWN, LARGEST_INNER, rows_of
from lepton_compile.model import Graph
from lepton_compile.quantization.layers import Layer

Array = npt.NDArray[Any]

# What is held at a time: the tensors that layers read in one sample, and moments.
_HELD_BYTES = 128 << 20


@dataclass(frozen=True)
class Reading:
    """What a layer reads.

    Attributes:
        layer: The layer.
        read: What it makes of its input before it multiplies; keeps zeros and the shape.
    """

    layer: Layer
    read: Callable[[Array], Array]


def second_moments(
    graph: Graph, readings: Sequence[Reading], samples: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[Layer, npt.NDArray[np.float32]]]:
    """The moments of each layer that has few enough inputs, by groups, inputs and inputs.

    Args:
        graph: The graph that has the layers.
        readings: What they read.
        samples: Inputs of the graph, at least one.
    """
    nodes = {node.name: node for node in graph.gs.nodes}
    for part in _parts(readings, nodes):
        session = graph.session(list(dict.fromkeys(each.layer.input for each in part)))
        sums: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for number, sample in enumerate(samples):
            values = session.run(sample)
            for each in part:
                name = each.layer.node
                drawn = np.random.default_rng(number)
                rows = rows_of(nodes[name], each.read(values[each.layer.input]), drawn, -(-DRAWN // len(samples)))
                sums[name] = sums.get(name, np.float32(0)) + rows.swapaxes(1, 2) @ rows
                counts[name] = counts.get(name, 0) + rows.shape[1]
        for each in part:
            total = sums.pop(each.layer.node)
            yield each.layer, (total / counts[each.layer.node]).astype(np.float32)


def _parts(readings: Sequence[Reading], nodes: Mapping[str, gs.Node]) -> Iterator[list[Reading]]:
    part: list[Reading] = []
    total = 0
    for each in readings:
        node = nodes[each.layer.node]
        groups, inner = _sizes(node)
        if inner > LARGEST_INNER:
            continue
        size = 4 * (math.prod(node.inputs[0].shape) + groups * inner**2)
        if part and total + size > _HELD_BYTES:
            yield part
            part, total = [], 0
        part.append(each)
        total += size
    if part:
        yield part


def _sizes(node: gs.Node) -> tuple[int, int]:
    """How many groups of inputs there are, and how many inputs in each."""
    if node.op == "Conv":
        return int(node.attrs.get("group", 1)), math.prod(node.inputs[1].shape[1:])
    return 1, int(node.inputs[0].shape[-1])
