"""Probe inputs: random values that a model takes, made from nothing but its graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph

# Integers without a known meaning are small: any byte, which images, text and audio are made of.
BYTES = 256

# Operators that hand the values of their first input on.
_MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Expand", "Slice")


def random_inputs(graph: Graph, seed: int) -> dict[str, npt.NDArray[Any]]:
    """A value for every input of the graph; the same seed gives the same values.

    Floats are standard normal, booleans even odds. Integers are bytes, but where the graph says what they are: indices
    lie inside of what they index, and a value that is compared with constants is one of those (a sampling rate).

    Args:
        graph: A graph whose inputs have element types and static shapes.
        seed: Seed of the random generator.
    """
    random = np.random.default_rng(seed)
    readers = _readers(graph)
    return {tensor.name: _random_value(tensor, readers, random) for tensor in graph.gs.inputs}


def _random_value(tensor: gs.Variable, readers: Mapping[str, list[Read]], random: np.random.Generator) -> Any:
    dtype, shape = np.dtype(tensor.dtype), tuple(tensor.shape)
    if dtype.kind == "b":
        return np.asarray(random.random(shape) < 0.5)
    if dtype.kind not in "iu":
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    reads = list(_reads(tensor.name, readers))
    limits = [limit for node, index in reads if (limit := _index_limit(node, index)) is not None]
    if limits:
        return np.asarray(random.integers(0, max(1, min(limits)), shape)).astype(dtype)
    if choices := sorted({value for node, index in reads for value in _compared(node, index)}):
        return np.asarray(random.choice(choices, shape)).astype(dtype)
    return np.asarray(random.integers(0, min(BYTES, int(np.iinfo(dtype).max) + 1), shape)).astype(dtype)


Read = tuple[gs.Node, int]


def _readers(graph: Graph) -> dict[str, list[Read]]:
    """Who reads each tensor, and as which of its inputs."""
    readers: dict[str, list[Read]] = defaultdict(list)
    for node in graph.nodes():
        for index, tensor in enumerate(node.inputs):
            if tensor.name:
                readers[tensor.name].append((node, index))
    return readers


def _reads(name: str, readers: Mapping[str, list[Read]]) -> Iterator[Read]:
    """Every use of the values of a tensor, also behind operators that only move them."""
    for node, index in readers.get(name, ()):
        yield node, index
        if node.op in _MOVES and index == 0:
            yield from _reads(node.outputs[0].name, readers)


def _index_limit(node: gs.Node, index: int) -> int | None:
    """What an index has to stay below, if input `index` of the node is one."""
    if node.op not in ("Gather", "GatherElements") or index != 1 or node.inputs[0].shape is None:
        return None
    size = node.inputs[0].shape[int(node.attrs.get("axis", 0))]
    return size if isinstance(size, int) else None


def _compared(node: gs.Node, index: int) -> list[int]:
    """The constants that input `index` of the node is compared with for equality."""
    if node.op != "Equal" or not isinstance(node.inputs[1 - index], gs.Constant):
        return []
    return [int(value) for value in np.ravel(node.inputs[1 - index].values)]
