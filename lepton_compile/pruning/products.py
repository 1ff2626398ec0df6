"""What the layers of a pruned graph multiply by known weights, and the weights that make up best for what is gone.

A recurrent layer reads states that it computes itself, and how far they go astray depends on the weights that are
looked for. So the weights of its state are fitted to the original's states, of the units that are left (teacher
forcing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.covariances import LARGEST_INNER, as_stored, by_inputs, drawn, rows_of
from lepton_compile.evaluation.stages import part_of
from lepton_compile.model import Graph
from lepton_compile.pruning.fitting import EVERYWHERE, Limits, fit
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.biases import RECURRENT
from lepton_compile.rewriting.patterns import constant, is_operator, operand

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """What a layer multiplies by known weights of its own.

    Attributes:
        node: The layer of the pruned graph.
        exact: That of the original.
        place: Which of their inputs the weights are.
        groups: Which of its groups are left.
        outputs: Which outputs of those are; as `by_inputs` orders them.
        limits: What of its outputs is told apart by what reads them.
        units: Of weights of a recurrent layer's state, which units are left.
    """

    node: gs.Node
    exact: gs.Node
    place: int
    groups: npt.NDArray[np.bool_]
    outputs: npt.NDArray[np.bool_]
    limits: Limits = EVERYWHERE
    units: npt.NDArray[np.bool_] | None = None

    @property
    def weights(self) -> gs.Constant:
        """Those of the pruned graph."""
        return self.node.inputs[self.place]

    @property
    def inputs(self) -> int:
        """How many numbers each of its outputs is a sum over."""
        return int(self._weights_of(self.node).shape[1])

    @property
    def vectors(self) -> int:
        """How often it multiplies in one sample."""
        groups, _, outputs = self._weights_of(self.node).shape
        if self.node.op in RECURRENT:
            return int(math.prod(self.node.inputs[0].shape[:2]))
        return max(1, int(math.prod(self.node.outputs[0].shape)) // int(groups * outputs))

    @property
    def loses_inputs(self) -> bool:
        """Whether some of what the original multiplies by weights is gone."""
        return bool(self._weights_of(self.exact).shape[1] != self.inputs)

    def fitted(self, graph: Graph, original: Sequence[Array], changed: Sequence[Array]) -> tuple[Array, Array] | None:
        """The weights that bring the layer nearest to the original's outputs, and what is added; None if none do.

        Args:
            graph: The original.
            original: What the layer reads in each sample.
            changed: The same in the pruned graph.
        """
        if self.units is not None:
            original = _states(graph, self.exact, original)
            changed = [states[..., self.units] for states in original]
        if all(np.array_equal(one, other) for one, other in zip(original, changed, strict=True)):
            return None
        return self._nearest(original, changed)

    def _nearest(self, original: Sequence[Array], changed: Sequence[Array]) -> tuple[Array, Array] | None:
        weights = self._weights_of(self.exact)[self.groups][:, :, self.outputs]
        bias = self._bias() if self.limits != EVERYWHERE else np.zeros((1, 1, 1), np.float32)

        def computed(x: Array, random: np.random.Generator, most: int) -> Array:
            made: Array = rows_of(self.exact, x, random, most, self.place)[self.groups] @ weights + bias
            return made

        def read(x: Array, random: np.random.Generator, most: int) -> Array:
            return rows_of(self.node, x, random, most, self.place)

        near = self._weights_of(self.node)
        found = fit(list(drawn(read, changed)), list(drawn(computed, original)), near, self.limits)
        if found is None:
            return None
        stored = rounded(np.ascontiguousarray(as_stored(self.node, found.weights, self.weights.shape, self.place)))
        offsets = found.offsets(by_inputs(self.node, stored, self.place)) - bias[:, 0]
        return stored, self._by_outputs(offsets)

    def _weights_of(self, node: gs.Node) -> Array:
        """By groups, inputs and outputs."""
        weights: Array = node.inputs[self.place].values
        return by_inputs(node, weights, self.place)

    def _bias(self) -> Array:
        """What the original adds to the outputs that are left; by groups and outputs, like products."""
        values = constant(operand(self.exact, 2))
        if values is None or values.size == 1:
            return np.full((1, 1, 1), 0 if values is None else values.item(), np.float32)
        by_group: Array = values.reshape(len(self.groups), -1)[self.groups][:, None, self.outputs]
        return by_group

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


def find_products(graph: Graph, pruned: Graph, structure: Structure, channels: Set[int]) -> Iterator[Product]:
    """What layers of a pruned graph multiply by weights of their own that few enough inputs have.

    Args:
        graph: The original.
        pruned: What is left of it.
        structure: What `find_groups` says of the original.
        channels: What is removed.
    """
    exact = {node.name: node for node in graph.gs.nodes}
    outputs = {tensor.name for tensor in graph.gs.outputs}
    for node in pruned.gs.nodes:
        if is_operator(node, "Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT) and node.name in exact:
            limits = EVERYWHERE if node.outputs[0].name in outputs else _limits(exact[node.name])
            yield from _products(node, exact[node.name], limits, structure, channels)


def _products(
    node: gs.Node, exact: gs.Node, limits: Limits, structure: Structure, channels: Set[int]
) -> Iterator[Product]:
    if constant(exact.inputs[0]) is not None:
        return
    if exact.op == "Gemm" and (int(exact.attrs.get("transA", 0)) or float(exact.attrs.get("alpha", 1)) != 1):
        return
    # A GRU may multiply its state by a gate first.
    as_it_is = exact.op != "GRU" or int(exact.attrs.get("linear_before_reset", 0))
    recurrent = exact.op in RECURRENT and as_it_is and _is_alone(exact)
    for place in (1, 2) if recurrent else (1,):
        weights = constant(exact.inputs[place])
        if weights is None or weights.dtype != np.float32 or (exact.op == "MatMul" and weights.ndim != 2):
            continue
        if len(exact.inputs[place].outputs) > 1:
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
        yield Product(node, exact, place, groups, outputs, limits, units)


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


def _limits(node: gs.Node) -> Limits:
    """What of a layer's outputs the only node that reads them tells apart."""
    if not is_operator(node, "Conv", "Gemm") or len(node.outputs[0].outputs) != 1 or node.attrs.get("beta", 1) != 1:
        return EVERYWHERE
    (reader,) = node.outputs[0].outputs
    if is_operator(reader, "Relu"):
        return Limits(low=0.0)
    if is_operator(reader, "Clip"):
        low, high = (constant(operand(reader, place)) for place in (1, 2))
        return Limits(-math.inf if low is None else low.item(), math.inf if high is None else high.item())
    return EVERYWHERE
