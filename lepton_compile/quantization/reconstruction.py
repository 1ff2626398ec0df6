"""Weights of few bits that make up for what the layers before them lost, layer by layer in the order of the graph.

A layer that read x reads y, since the weights before it are rounded. Of all W' the one whose products are nearest to
the original's, and which stays near W where samples say little,

    E|y W' + b - x W|^2 + d |W' - W|^2 is least where (C[y'y] + d) W' = C[y'x] W + d W,

C being covariances, is what is rounded, its weights together (`rounding.py`): least squares from a few samples in
closed form, as Li et al. do for language models ("GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
Calibration", 2025, arXiv:2504.02692). What is left of the mean, b = E[x] W - E[y] Q, becomes part of the bias. Branches
are graphs of their own, which read what the samples that take them give them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import (
    FEWEST_VECTORS,
    LARGEST_INNER,
    as_stored,
    by_inputs,
    covariances,
    drawn,
    least_squares,
    rows_of,
)
from lepton_compile.evaluation.stages import HELD_BYTES, as_many_as_held, in_stages, part_of
from lepton_compile.model import Graph
from lepton_compile.model.folding import bytes_of
from lepton_compile.model.traversal import captured, walk
from lepton_compile.quantization.layers import Layer, find_layers
from lepton_compile.quantization.rounding import rounded_together, told
from lepton_compile.quantization.weight_only import as_integers
from lepton_compile.quantization.weights import largest
from lepton_compile.rewriting.biases import RECURRENT, add_more, add_to_outputs, correctable
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand, static_shape

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# d, as a share of the mean variance of what a layer reads.
_DAMPING = 0.3
# Integers are kept by how they differ from the nearest ones, in a byte.
_FURTHEST = 127
_BRANCHES = "then_branch", "else_branch"


@dataclass(frozen=True)
class Reconstruction:
    """How weights make up for what is lost.

    Attributes:
        rounding: How they are rounded, by nodes, as `make_weight_only` takes it.
        corrections: What is added to outputs, by nodes, as `add_to_outputs` takes it.
    """

    rounding: Mapping[str, str] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


NEAREST = Reconstruction()
"""The nearest integers, and nothing added."""


def reconstructed(graph: Graph, approximate: Graph, bits: Mapping[str, int], samples: Samples) -> Reconstruction:
    """How the weights of nodes make up for what is lost.

    Args:
        graph: The graph.
        approximate: The same with some weights in few bits; it is changed.
        bits: The nodes whose weights are rounded, each with how many bits they take.
        samples: Inputs of the graph, at least one; of many, as many as memory is allowed for.
    """
    counts = correctable(graph, bits)
    add_to_outputs(approximate, {node: [0.0] * count for node, count in counts.items()})
    found = _Found({node: np.zeros(count, np.float32) for node, count in counts.items()})
    _reconstruct(graph, approximate, bits, (samples, samples), Uses(approximate).fresh_name, found)
    return Reconstruction(
        {node: " ".join(texts) for node, texts in found.rounding.items() if any(texts)},
        {node: tuple(map(float, offsets)) for node, offsets in found.corrections.items() if offsets.any()},
    )


@dataclass
class _Found:
    """What is found so far, by nodes: what is added to outputs, and how each input of weights is rounded."""

    corrections: dict[str, npt.NDArray[np.float32]]
    rounding: dict[str, list[str]] = field(default_factory=dict)


def _reconstruct(
    graph: Graph,
    approximate: Graph,
    bits: Mapping[str, int],
    samples: tuple[Samples, Samples],
    fresh_name: Callable[[str], str],
    found: _Found,
) -> None:
    """The same, where the original and what approximates it have inputs of their own."""
    exact = {node.name: node for node in graph.gs.nodes}
    rounded = {node.name: node for node in approximate.gs.nodes}
    products = [each for each in _products(graph) if each.node in bits]
    names = list(dict.fromkeys(each.reads for each in products))
    stages = (
        in_stages(which, names, as_many_as_held(graph, names, of))
        for which, of in zip((graph, approximate), samples, strict=True)
    )
    for name, original, changed in zip(names, *stages, strict=True):
        for product in products:
            if product.reads != name:
                continue
            node = rounded[product.node]
            made = product.rounded(exact[node.name], bits[node.name], original, changed)
            node.inputs[product.place] = gs.Constant(fresh_name(node.name), made.values)
            found.rounding.setdefault(node.name, [""] * product.of)[product.place - 1] = made.text
            if node.name in found.corrections and made.offsets is not None:
                added = product.offsets(exact[node.name], made.offsets)
                found.corrections[node.name] += added
                add_more(node, added, fresh_name)
    for node in exact.values():
        for name in _BRANCHES if is_operator(node, "If") else ():
            if any(inner.name in bits for inner in walk(node.attrs[name])):
                owners = node, rounded[node.name]
                body, twin, taken = _in_branch(graph, approximate, owners, name, samples)
                if taken[0]:
                    _reconstruct(body, twin, bits, taken, fresh_name, found)


def _in_branch(
    graph: Graph,
    approximate: Graph,
    owners: tuple[gs.Node, gs.Node],
    name: str,
    samples: tuple[Samples, Samples],
) -> tuple[Graph, Graph, tuple[Samples, Samples]]:
    """A branch of the node that both graphs have, with what it reads of the samples that take it in the original."""
    bodies = []
    for whole, node in zip((graph, approximate), owners, strict=True):
        body = node.attrs[name]
        bodies.append(Graph(part_of(whole, body.nodes, captured([body]), body.outputs)))
    reads, changed_reads = ([tensor.name for tensor in body.gs.inputs] for body in bodies)
    most = max(1, HELD_BYTES // max(1, sum(map(bytes_of, bodies[0].gs.inputs))))
    condition = owners[0].inputs[0]
    known = constant(condition)
    run = _values(graph, reads if known is not None else [*reads, condition.name])
    run_changed = _values(approximate, changed_reads)
    taken: list[Mapping[str, Array]] = []
    changed_taken: list[Mapping[str, Array]] = []
    for sample, other in zip(*samples, strict=True):
        values = run(sample)
        decided = np.asarray(values[condition.name] if known is None else known)
        if bool(decided.item()) == (name == "then_branch") and len(taken) < most:
            taken.append({read: values[read] for read in reads})
            changed_taken.append(run_changed(other))
    return bodies[0], bodies[1], (taken, changed_taken)


def _values(graph: Graph, names: Sequence[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What gives the values of tensors for a sample."""
    inputs = {tensor.name for tensor in graph.gs.inputs}
    computed = [name for name in dict.fromkeys(names) if name not in inputs]
    session = graph.session(computed) if computed else None

    def run(sample: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: sample[name] for name in names if name in inputs}
        return given | (session.run(sample) if session is not None else {})

    return run


@dataclass(frozen=True)
class _Rounded:
    """Weights as integers.

    Attributes:
        values: What they stand for.
        text: How they differ from the nearest ones, as `rounding.told` says it; "" where they do not.
        offsets: What is added to outputs, by groups and outputs; None where too little is known of that.
    """

    values: Array
    text: str = ""
    offsets: Array | None = None


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

    def rounded(self, node: gs.Node, bits: int, original: Sequence[Array], changed: Sequence[Array]) -> _Rounded:
        """The weights as integers that make up for what was lost before."""
        weights = constant(node.inputs[self.place])
        assert weights is not None
        made, most = as_integers(node, weights, bits), largest(bits)
        rows = functools.partial(rows_of, node, place=self.place)
        known = covariances(*(drawn(rows, each) for each in (changed, original)))
        exact, steps, nearest = (
            by_inputs(node, each, self.place) for each in (weights, made.steps, made.values.astype(np.int16))
        )
        if not known.finite:
            return _Rounded(np.ascontiguousarray(made.values * made.steps))
        wanted = least_squares(known, exact, exact, _DAMPING)
        near = np.clip(np.rint(wanted / steps), -most, most)
        integers = rounded_together(wanted, steps, near, most, known.moments).astype(np.int16)
        integers = np.clip(integers, nearest - _FURTHEST, nearest + _FURTHEST)
        stored = as_stored(node, integers, weights.shape, self.place).astype(made.values.dtype)
        text = told(stored, made.values) if (stored != made.values).any() else ""
        offsets = (known.other_mean[:, None] @ exact - known.mean[:, None] @ (integers * steps))[:, 0]
        enough = known.vectors >= FEWEST_VECTORS and np.isfinite(offsets).all()
        return _Rounded(np.ascontiguousarray(stored * made.steps), text, offsets if enough else None)

    def offsets(self, node: gs.Node, found: Array) -> npt.NDArray[np.float32]:
        """As `add_to_outputs` takes it, what is added for these products, which is given by groups and outputs."""
        if self.layer is not None:
            return found.reshape(-1)
        spaced = np.zeros((int(node.inputs[1].shape[0]), self.of, int(node.inputs[1].shape[1])), np.float32)
        spaced[:, self.place - 1] = found.reshape(spaced.shape[0], -1)
        return spaced.reshape(-1)


def _products(graph: Graph) -> Iterator[_Product]:
    """The products of a graph's own nodes that can be rounded anew; in the order of the graph.

    Moments are of few enough inputs. Weights that several nodes read stay the same for all of them, and so the nearest
    integers, as do those of transposed convolutions and tables.
    """
    layers = {layer.node: layer for layer in find_layers(graph)[0]}
    for node in graph.gs.nodes:
        layer = layers.get(node.name)
        of_node = [_Product(node.name, layer.input, 1, 1, layer)] if layer is not None else []
        for product in _of_steps(node) if is_operator(node, *RECURRENT) else of_node:
            weights = node.inputs[product.place]
            inner = by_inputs(node, weights.values).shape[1] if layer is not None else weights.shape[2]
            if inner <= LARGEST_INNER and len(weights.outputs) == 1:
                yield product


def _of_steps(node: gs.Node) -> Iterator[_Product]:
    """What a recurrent layer multiplies: its input, and the hidden state where there is one step and it is known.

    A GRU multiplies the state by a gate first where `linear_before_reset` is 0.
    """
    x, state = node.inputs[0], operand(node, 5)
    shape = static_shape(x)
    if any(not isinstance(node.inputs[place], gs.Constant) for place in (1, 2)) or shape is None:
        return
    if constant(x) is not None:
        return
    yield _Product(node.name, x.name, 1, 2)
    steps = shape[1 if int(node.attrs.get("layout", 0)) else 0]
    as_it_is = node.op != "GRU" or int(node.attrs.get("linear_before_reset", 0))
    if steps == 1 and as_it_is and state is not None and constant(state) is None:
        yield _Product(node.name, state.name, 2, 2)
