"""Weights of few bits that make up for what the layers before them lost, layer by layer in the order of the graph.

A layer that read x reads y, since the weights before it are rounded. Of all W' the one whose products are nearest to
the original's, and which stays near W where samples say little,

    E|y W' - x W|^2 + d |W' - W|^2 is least where (E[y'y] + d) W' = E[y'x] W + d W,

is what is rounded, its weights together (`rounding.py`): least squares from a few samples in closed form, as Li et al.
do for language models ("GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025,
arXiv:2504.02692). Branches are graphs of their own, which read what the samples that take them give them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.stages import in_stages, most_held, part_of
from lepton_compile.model import Graph
from lepton_compile.model.traversal import captured
from lepton_compile.quantization.layers import Layer, find_layers
from lepton_compile.quantization.moments import LARGEST_INNER, moments_between, rows_of
from lepton_compile.quantization.rounding import as_stored, by_inputs, rounded_together, told
from lepton_compile.quantization.weight_only import RECURRENT, as_integers
from lepton_compile.quantization.weights import largest
from lepton_compile.rewriting.patterns import constant, is_operator, operand, static_shape

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# d, as a share of the mean square of what a layer reads.
_DAMPING = 0.3
# What is held of all samples at a time, of the original's tensors and of the others each.
_HELD_BYTES = 64 << 20
# Integers are kept by how they differ from the nearest ones, in a byte.
_FURTHEST = 127
_BRANCHES = "then_branch", "else_branch"


def reconstructed(graph: Graph, approximate: Graph, bits: Mapping[str, int], samples: Samples) -> dict[str, str]:
    """How weights are rounded, by nodes, as `make_weight_only` takes it.

    Args:
        graph: The graph.
        approximate: The same with some weights in few bits; it is changed.
        bits: The nodes whose weights are rounded, each with how many bits they take.
        samples: Inputs of the graph, at least one; of many, as many as memory is allowed for.
    """
    found = _reconstructed(graph, approximate, bits, samples, samples)
    return {node: " ".join(texts) for node, texts in found.items()}


def _reconstructed(
    graph: Graph, approximate: Graph, bits: Mapping[str, int], originals: Samples, changed: Samples
) -> dict[str, list[str]]:
    """The same for each input of weights, where the original and what approximates it have inputs of their own."""
    exact = {node.name: node for node in graph.gs.nodes}
    rounded = {node.name: node for node in approximate.gs.nodes}
    products = [each for each in _products(graph) if each.node in bits]
    names = list(dict.fromkeys(each.reads for each in products))
    most = max(1, _HELD_BYTES // max(1, most_held(graph, names)))
    stages = zip(
        names, in_stages(graph, names, originals[:most]), in_stages(approximate, names, changed[:most]), strict=True
    )
    found: dict[str, list[str]] = {}
    for name, original, other in stages:
        for product in products:
            if product.reads == name:
                values, text = product.rounded(exact[product.node], bits[product.node], original, other)
                rounded[product.node].inputs[product.place] = gs.Constant(f"{product.node}_{product.place}", values)
                found.setdefault(product.node, [""] * product.of)[product.place - 1] = text
    for node in exact.values():
        for name in _BRANCHES if is_operator(node, "If") else ():
            body, twin = (
                _branch(whole, owner, name, inputs)
                for whole, owner, inputs in ((graph, node, originals), (approximate, rounded[node.name], changed))
            )
            if body.samples and twin.samples:
                found |= _reconstructed(body.graph, twin.graph, bits, body.samples, twin.samples)
    return found


@dataclass(frozen=True)
class _Body:
    """A branch as a graph of what it reads, and the samples that take it."""

    graph: Graph
    samples: Samples


def _branch(graph: Graph, node: gs.Node, name: str, samples: Samples) -> _Body:
    body = node.attrs[name]
    reads = [tensor for tensor in captured([body]) if tensor.name]
    condition = node.inputs[0]
    made = Graph(part_of(graph, body.nodes, reads, body.outputs))
    asked = [tensor.name for tensor in (condition, *reads) if not isinstance(tensor, gs.Constant)]
    computed = [each for each in dict.fromkeys(asked) if each not in {tensor.name for tensor in graph.gs.inputs}]
    session = graph.session(computed) if computed else None
    taken = []
    for sample in samples:
        values = {**sample, **(session.run(sample) if session else {})}
        known = constant(condition)
        decides = bool(np.asarray(values[condition.name] if known is None else known).item())
        if decides == (name == "then_branch"):
            taken.append({tensor.name: values[tensor.name] for tensor in reads})
    return _Body(made, taken)


@dataclass(frozen=True)
class _Product:
    """What a node multiplies by known weights.

    Attributes:
        node: The node's name.
        reads: The tensor that is multiplied.
        place: Which of the node's inputs the weights are.
        of: How many such inputs there are.
        layer: The layer that it is; None of a recurrent one.
    """

    node: str
    reads: str
    place: int
    of: int
    layer: Layer | None = None

    def rounded(
        self, node: gs.Node, bits: int, original: Sequence[Array], changed: Sequence[Array]
    ) -> tuple[Array, str]:
        """What the integers of the weights stand for, and how they differ from the nearest ones."""
        weights = constant(node.inputs[self.place])
        assert weights is not None
        made, most = as_integers(node, weights, bits), largest(bits)
        moments, mixed = moments_between(lambda x, random, count: self._rows(node, x, random, count), changed, original)
        exact, steps, nearest = (
            self._by_inputs(node, each) for each in (weights, made.steps, made.values.astype(np.int16))
        )
        wanted = _least_squares(moments, mixed, exact)
        near = np.clip(np.rint(wanted / steps), -most, most)
        integers = rounded_together(wanted, steps, near, most, moments).astype(np.int16)
        integers = np.clip(integers, nearest - _FURTHEST, nearest + _FURTHEST)
        stored = self._as_stored(node, integers, weights.shape).astype(made.values.dtype)
        return np.ascontiguousarray(stored * made.steps), told(stored, made.values)

    def _rows(self, node: gs.Node, x: Array, random: np.random.Generator, most: int) -> Array:
        if self.layer is not None or self.place == 1:
            return rows_of(node, x, random, most)
        # Hidden states, which each direction multiplies by weights of its own.
        return x.swapaxes(0, 1) if int(node.attrs.get("layout", 0)) else x

    def _by_inputs(self, node: gs.Node, weights: Array) -> Array:
        """By groups, inputs and outputs."""
        if self.layer is not None:
            return by_inputs(node, self.layer, weights)
        turned = weights.swapaxes(1, 2)
        return turned if self.place == 2 else np.concatenate(turned, axis=1)[None]

    def _as_stored(self, node: gs.Node, values: Array, shape: tuple[int, ...]) -> Array:
        if self.layer is not None:
            return as_stored(node, self.layer, values, shape)
        by_direction = values if self.place == 2 else np.stack(np.split(values[0], shape[0], axis=1))
        return by_direction.swapaxes(1, 2)


def _products(graph: Graph) -> Iterator[_Product]:
    """The products of a graph's own nodes that have few enough inputs for their moments; in the order of the graph."""
    layers = {layer.node: layer for layer in find_layers(graph)[0]}
    for node in graph.gs.nodes:
        layer = layers.get(node.name)
        if layer is not None and by_inputs(node, layer, _weights(node, 1)).shape[1] <= LARGEST_INNER:
            yield _Product(node.name, layer.input, 1, 1, layer)
        if is_operator(node, *RECURRENT):
            yield from _of_steps(node)


def _of_steps(node: gs.Node) -> Iterator[_Product]:
    """What a recurrent layer multiplies: its input, and the hidden state where there is one step and it is known."""
    x, state = node.inputs[0], operand(node, 5)
    shape = static_shape(x)
    if any(constant(node.inputs[place]) is None for place in (1, 2)) or shape is None:
        return
    yield _Product(node.name, x.name, 1, 2)
    steps = shape[1 if int(node.attrs.get("layout", 0)) else 0]
    if steps == 1 and state is not None and constant(state) is None:
        yield _Product(node.name, state.name, 2, 2)


def _weights(node: gs.Node, place: int) -> Array:
    known = constant(node.inputs[place])
    assert known is not None
    return known


def _least_squares(moments: Array, mixed: Array, weights: Array) -> npt.NDArray[np.float32]:
    """W' of each group of inputs."""
    damping = _DAMPING * np.diagonal(moments, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    damped = moments + np.where(damping > 0, damping, 1.0) * np.eye(moments.shape[1])
    # W' - W, so that weights that nothing moves stay what they are, exactly.
    moved = np.linalg.solve(damped, (mixed - moments).astype(np.float64) @ weights)
    return np.asarray(weights + moved, np.float32)
