"""Weights that make up for removed channels, layer by layer in the order of the graph, without labels or gradients.

A layer that read x reads y, what is left of x and what the layers before made of it. The weights whose products are
nearest to the original's, and which stay near those that are left of the original's, V, where samples say little,

    E|y W' + b - x W|^2 + d |W' - V|^2 is least where (C[y'y] + d) W' = C[y'x] W + d V,   b = E[x] W - E[y] W',

with C covariances: least squares in closed form (He et al., "Channel pruning for accelerating very deep neural
networks", 2017, arXiv:1707.06168, reconstruct layers so).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import (
    FEWEST_VECTORS,
    LARGEST_INNER,
    Covariances,
    as_stored,
    by_inputs,
    covariances,
    drawn,
    least_squares,
    rows_of,
)
from lepton_compile.evaluation.stages import as_many_as_held, in_stages, part_of
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure, weights_of
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.biases import RECURRENT, add_more, add_to_outputs, correctable
from lepton_compile.rewriting.patterns import Uses, constant, is_operator

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# d, as shares of the mean variance of what a layer reads. The one is taken with which what is fitted to every other
# sample is best on those between.
_DAMPINGS = 0.001, 0.01, 0.1, 1.0


@dataclass(frozen=True)
class Repair:
    """What layers of a pruned graph make up with.

    Attributes:
        weights: Their new weights, by the names of those that they replace, rounded so that `told` tells them exactly.
        offsets: What is added to the outputs of nodes, as `add_to_outputs` takes it.
    """

    weights: Mapping[str, Array]
    offsets: Mapping[str, tuple[float, ...]]


NOTHING = Repair({}, {})
"""Weights that are left as they are."""


def apply(repair: Repair, pruned: Graph) -> Graph:
    """Give the layers of a pruned graph, in place, what they make up with.

    Raises:
        ValueError: There are no such weights, or they are of another shape.
    """
    known = {weights.name: weights for weights in weights_of(pruned)}
    for name, values in repair.weights.items():
        if name not in known or tuple(known[name].shape) != values.shape:
            raise ValueError(f"there are no weights '{name}' of shape {values.shape}")
        known[name].values = values
    add_to_outputs(pruned, repair.offsets)
    return pruned


def find_repair(graph: Graph, pruned: Graph, structure: Structure, channels: Set[int], samples: Samples) -> Repair:
    """What lets the layers of a pruned graph answer as the original's do.

    Args:
        graph: The original.
        pruned: What is left of it; it is changed.
        structure: What `find_groups` says of the original.
        channels: What is removed.
        samples: Inputs, at least one; of many, as many as memory is allowed for.
    """
    exact = {node.name: node for node in graph.gs.nodes}
    layers = [node for node in pruned.gs.nodes if node.name in exact]
    products = [product for node in layers for product in _products(node, exact[node.name], structure, channels)]
    offsets = {
        name: np.zeros(count, np.float32)
        for name, count in correctable(pruned, [product.node.name for product in products]).items()
    }
    add_to_outputs(pruned, {name: values.tolist() for name, values in offsets.items()})
    names = list(dict.fromkeys(product.node.inputs[0].name for product in products))
    held = as_many_as_held(graph, names, samples)
    stages = (in_stages(each, names, held) for each in (graph, pruned))
    fresh_name = Uses(pruned).fresh_name
    weights: dict[str, Array] = {}
    for name, original, changed in zip(names, *stages, strict=True):
        for product in products:
            if product.node.inputs[0].name != name:
                continue
            fitted = product.fitted(graph, original, changed)
            if fitted is not None:
                product.weights.values, added = fitted
                weights[product.weights.name] = product.weights.values
                offsets[product.node.name] += added
                add_more(product.node, added, fresh_name)
    told_of = {product.node.name for product in products if product.weights.name in weights}
    return Repair(weights, {name: tuple(map(float, offsets[name])) for name in offsets if name in told_of})


@dataclass(frozen=True)
class _Product:
    """What a layer multiplies by known weights of its own.

    Attributes:
        node: The layer of the pruned graph.
        exact: That of the original.
        place: Which of their inputs the weights are.
        groups: Which of its groups are left.
        outputs: Which outputs of those are; as `by_inputs` orders them.
        units: Which units of a recurrent layer are.
    """

    node: gs.Node
    exact: gs.Node
    place: int
    groups: npt.NDArray[np.bool_]
    outputs: npt.NDArray[np.bool_]
    units: npt.NDArray[np.bool_] | None = None

    @property
    def weights(self) -> gs.Constant:
        """Those of the pruned graph."""
        return self.node.inputs[self.place]

    def fitted(self, graph: Graph, original: Sequence[Array], changed: Sequence[Array]) -> tuple[Array, Array] | None:
        """The weights that bring the layer nearest to the original's outputs, and what is added; None if none do.

        Args:
            graph: The original.
            original: What the layer reads in each sample.
            changed: The same in the pruned graph.
        """
        if self.units is not None:
            # Those of the original, too, for what is left: states that weights of no use lead to would teach nothing.
            original = _states(graph, self.exact, original)
            changed = [states[..., self.units] for states in original]
        if all(np.array_equal(one, other) for one, other in zip(original, changed, strict=True)):
            return None
        wanted = by_inputs(self.exact, self.exact.inputs[self.place].values, self.place)
        return self._nearest(original, changed, wanted[self.groups][:, :, self.outputs])

    def _nearest(
        self, original: Sequence[Array], changed: Sequence[Array], wanted: Array
    ) -> tuple[Array, Array] | None:
        def rows(x: Array, random: np.random.Generator, most: int) -> Array:
            return rows_of(self.exact, x, random, most, self.place)[self.groups]

        def left_rows(x: Array, random: np.random.Generator, most: int) -> Array:
            return rows_of(self.node, x, random, most, self.place)

        def between(part: slice) -> Covariances:
            return covariances(drawn(left_rows, changed[part]), drawn(rows, original[part]))

        known = between(slice(None))
        if not known.finite or known.vectors < FEWEST_VECTORS:
            return None
        left = by_inputs(self.node, self.weights.values, self.place)
        damping = _DAMPINGS[-1]
        if len(changed) > 1:
            fitting, judging = between(slice(0, None, 2)), between(slice(1, None, 2))
            damping = min(
                _DAMPINGS, key=lambda each: _lost(judging, least_squares(fitting, wanted, left, each), wanted)
            )
        fitted = least_squares(known, wanted, left, damping)
        stored = rounded(np.ascontiguousarray(as_stored(self.node, fitted, self.weights.shape, self.place)))
        fitted = by_inputs(self.node, stored, self.place)
        offsets = (known.other_mean[:, None] @ wanted - known.mean[:, None] @ fitted)[:, 0]
        return stored, self._by_outputs(offsets)

    def _by_outputs(self, offsets: Array) -> npt.NDArray[np.float32]:
        """What is to be added by groups and outputs, as `add_to_outputs` takes it."""
        if self.node.op == "ConvTranspose":
            # Each output is a sum over taps, one of as many as strides step over.
            channels = offsets.reshape(-1, math.prod(self.weights.shape[2:])).sum(axis=1)
            return np.asarray(channels / math.prod(self.node.attrs.get("strides", (1,))), np.float32)
        if self.node.op in RECURRENT:
            spaced = np.zeros((self.weights.shape[0], 2, self.weights.shape[1]), np.float32)
            spaced[:, self.place - 1] = offsets.reshape(len(spaced), -1)
            return spaced.reshape(-1)
        return np.asarray(offsets.reshape(-1), np.float32)


def _products(node: gs.Node, exact: gs.Node, structure: Structure, channels: Set[int]) -> Iterator[_Product]:
    """What a layer multiplies by weights of its own that few enough inputs have."""
    if not is_operator(exact, "Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT):
        return
    if constant(exact.inputs[0]) is not None:
        return
    if exact.op == "Gemm" and (int(exact.attrs.get("transA", 0)) or float(exact.attrs.get("alpha", 1)) != 1):
        return
    # A GRU may multiply its state by a gate first.
    as_it_is = exact.op != "GRU" or int(exact.attrs.get("linear_before_reset", 0))
    recurrent = exact.op in RECURRENT and as_it_is and _is_alone(exact)
    for place in (1, 2) if recurrent else (1,):
        weights = constant(exact.inputs[place])
        if weights is None or len(exact.inputs[place].outputs) > 1 or (exact.op == "MatMul" and weights.ndim != 2):
            continue
        if by_inputs(exact, weights, place).shape[1] > LARGEST_INNER:
            continue
        axes = structure.axes[exact.inputs[place].name]
        kept = np.ones(weights.shape, bool)
        for axis in _output_axes(exact):
            stays = np.isin(axes[axis], sorted(channels), invert=True)
            kept &= stays.reshape([-1 if each == axis else 1 for each in range(weights.ndim)])
        by_group = by_inputs(exact, kept, place)[:, 0]
        groups = np.asarray(by_group.any(axis=1))
        outputs = np.asarray(by_group[groups].all(axis=0))
        units = np.isin(axes[2], sorted(channels), invert=True) if place == 2 else None
        yield _Product(node, exact, place, groups, outputs, units)


def _is_alone(node: gs.Node) -> bool:
    """Whether all that a recurrent layer reads beside its input is known, and its states can be read."""
    others = [tensor for tensor in node.inputs[1:] if not tensor.is_empty()]
    return all(constant(tensor) is not None for tensor in others) and not node.outputs[0].is_empty()


def _states(graph: Graph, node: gs.Node, values: Sequence[Array]) -> list[Array]:
    """All states of a recurrent layer that reads these values."""
    x, y = node.inputs[0], node.outputs[0]
    session = Graph(part_of(graph, [node], [x], [y])).session()
    return [session.run({x.name: value})[y.name] for value in values]


def _output_axes(node: gs.Node) -> tuple[int, ...]:
    """The axes of weights whose indices tell outputs apart."""
    if node.op == "ConvTranspose":
        return (0, 1) if int(node.attrs.get("group", 1)) > 1 else (1,)
    if node.op in ("Gemm", "MatMul"):
        return (0,) if int(node.attrs.get("transB", 0)) else (1,)
    return (1,) if node.op in RECURRENT else (0,)


def _lost(known: Covariances, fitted: Array, wanted: Array) -> float:
    """The variance of y W' - x W, but for what does not depend on W'."""
    return float((fitted * (known.moments @ fitted - 2 * (known.mixed @ wanted))).sum())
