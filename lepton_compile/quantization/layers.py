"""Which layers could compute in integers, and which tensors they read.

A layer is a Conv, Gemm or MatMul with known weights. Layers whose inputs are connected by operators that only move
elements (Concat, Split, MaxPool, …) share a group: one scale holds for all of its tensors, so that what is moved are
integers. A group is quantized where its values are computed, at its sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx
import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.channels import is_depthwise
from lepton_compile.rewriting.patterns import constant, is_operator, static_shape
from lepton_compile.rewriting.quantization import moved_by

LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node that multiplies by known weights.

    Attributes:
        node: The node's name.
        input: The tensor that it reads.
        channel_axis: The axis of the input that the products are summed over.
        weights_axis: The axis of the weights that goes with it.
        output_axis: The axis of the weights that its outputs lie along.
        depthwise: Whether each output is of one channel.
    """

    node: str
    input: str
    channel_axis: int
    weights_axis: int
    output_axis: int
    depthwise: bool


@dataclass(frozen=True)
class Group:
    """Tensors that have to have one scale.

    Attributes:
        sources: Those of them that are computed, not only moved; in the order of the graph.
        layers: The layers that read any of them; in the order of the graph.
    """

    sources: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.sources[0]


def find_layers(graph: Graph) -> tuple[list[Layer], list[str]]:
    """The layers of the main graph that could compute in integers, and for the others why not."""
    found: list[Layer] = []
    refusals: list[str] = []
    for node in graph.gs.nodes:
        if not is_operator(node, *LAYERS, "ConvTranspose"):
            continue
        why = _why_not(node)
        if why:
            refusals.append(f"{node.name}: {why}")
        else:
            found.append(_layer(node))
    return found, refusals


def find_groups(graph: Graph, layers: Sequence[Layer]) -> list[Group]:
    """The groups of what layers read, in the order of the graph."""
    connected: networkx.Graph[str] = networkx.Graph()
    connected.add_nodes_from(layer.input for layer in layers)
    moved: set[str] = set()
    for node in graph.gs.nodes:
        data = moved_by(node)
        if any(constant(tensor) is not None for tensor in data):
            continue
        names = [tensor.name for tensor in (*data, *(node.outputs if data else ()))]
        networkx.add_path(connected, names)
        moved.update(tensor.name for tensor in node.outputs if data)
    order = {name: place for place, name in enumerate(_tensors(graph))}
    groups = []
    for names in networkx.connected_components(connected):
        reading = tuple(layer for layer in layers if layer.input in names)
        sources = sorted((name for name in names if name not in moved), key=lambda name: order[name])
        if reading and sources:
            groups.append(Group(tuple(sources), reading))
    return sorted(groups, key=lambda group: order[group.name])


def _why_not(node: gs.Node) -> str:
    if node.op == "ConvTranspose":
        return "there are no kernels of integers for transposed convolutions"
    x, w = node.inputs[0], node.inputs[1]
    weights = constant(w)
    if weights is None:
        return "both factors are computed"
    if weights.dtype != np.float32 or x.dtype != np.float32:
        return f"it computes in {weights.dtype}"
    if constant(x) is not None:
        return "what it reads is known"
    if node.op == "MatMul" and weights.ndim != 2:
        return f"the weights have {weights.ndim} axes"
    if node.op == "Gemm" and (float(node.attrs.get("alpha", 1)) != 1 or int(node.attrs.get("transA", 0))):
        return "its first factor is scaled or transposed"
    if static_shape(x) is None or not x.shape:
        return "the shape of its input is not known"
    if not np.isfinite(weights).all() or not weights.any():
        return "its weights are zero, or not finite"
    return ""


def _layer(node: gs.Node) -> Layer:
    match node.op:
        case "Conv":
            axes = 1, 1, 0
        case "Gemm" if int(node.attrs.get("transB", 0)):
            axes = 1, 1, 0
        case "Gemm":
            axes = 1, 0, 1
        case _:
            axes = len(node.inputs[0].shape) - 1, 0, 1
    return Layer(node.name, node.inputs[0].name, *axes, node.op == "Conv" and is_depthwise(node))


def _tensors(graph: Graph) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.gs.inputs)
    yield from (tensor.name for node in graph.gs.nodes for tensor in node.outputs)
