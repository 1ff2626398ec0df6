"""Weights that make up for removed channels, layer by layer in the order of the graph, without labels or gradients.

A layer that read x reads y, what is left of x and what the layers before made of it. The weights whose products are
nearest to the original's, and which stay near those that are left of the original's, V, where samples say little,

    E|y W' + b - x W|^2 + d |W' - V|^2 is least where (C[y'y] + d) W' = C[y'x] W + d V,   b = E[x] W - E[y] W',

with C covariances: least squares in closed form (He et al., "Channel pruning for accelerating very deep neural
networks", 2017, arXiv:1707.06168, reconstruct layers so).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set
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
from lepton_compile.evaluation.stages import as_many_as_held, in_stages
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.reestimation import can_be_estimated, estimated
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.biases import add_more, add_to_outputs, correctable
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
        weights: Their new weights, by nodes, rounded so that `told` tells them exactly.
        offsets: What is added to their outputs, as `add_to_outputs` takes it.
    """

    weights: Mapping[str, Array]
    offsets: Mapping[str, tuple[float, ...]]


NOTHING = Repair({}, {})
"""Weights that are left as they are."""


def apply(repair: Repair, pruned: Graph) -> Graph:
    """Give the layers of a pruned graph, in place, what they make up with.

    Raises:
        ValueError: A node is not there, or its weights are of another shape.
    """
    nodes = {node.name: node for node in pruned.gs.nodes}
    fresh_name = Uses(pruned).fresh_name
    for name, values in repair.weights.items():
        if name not in nodes or tuple(nodes[name].inputs[1].shape) != values.shape:
            raise ValueError(f"there is no layer '{name}' with weights of shape {values.shape}")
        nodes[name].inputs[1] = gs.Constant(fresh_name(nodes[name].inputs[1].name), values)
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
    fitting = _can_be_fitted, can_be_estimated
    layers = [node for node in pruned.gs.nodes if any(can(exact[node.name]) for can in fitting if node.name in exact)]
    counts = correctable(pruned, [node.name for node in layers])
    add_to_outputs(pruned, {name: [0.0] * count for name, count in counts.items()})
    names = list(dict.fromkeys(node.inputs[0].name for node in layers))
    held = as_many_as_held(graph, names, samples)
    stages = (in_stages(each, names, held) for each in (graph, pruned))
    fresh_name = Uses(pruned).fresh_name
    weights: dict[str, Array] = {}
    offsets: dict[str, tuple[float, ...]] = {}
    for name, original, changed in zip(names, *stages, strict=True):
        if all(np.array_equal(one, other) for one, other in zip(original, changed, strict=True)):
            continue
        for node in layers:
            if node.inputs[0].name != name:
                continue
            if can_be_estimated(node):
                left = np.isin(structure.axes[name][1], sorted(channels), invert=True)
                fitted = estimated(node, changed, [value[:, left] for value in original])
            else:
                kept = _Kept.of(exact[node.name], structure, channels)
                fitted = _fitted(node, exact[node.name], kept, changed, original)
            if fitted is not None:
                weights[node.name], added = fitted
                offsets[node.name] = tuple(map(float, added))
                node.inputs[1] = gs.Constant(fresh_name(node.inputs[1].name), weights[node.name])
                add_more(node, added, fresh_name)
    return Repair(weights, offsets)


@dataclass(frozen=True)
class _Kept:
    """What is left of a layer: its groups, and the outputs of each; as `by_inputs` orders them."""

    groups: npt.NDArray[np.bool_]
    outputs: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, node: gs.Node, structure: Structure, channels: Set[int]) -> _Kept:
        axis = 0 if node.op == "Conv" or int(node.attrs.get("transB", 0)) else 1
        labels = structure.axes[node.inputs[1].name][axis]
        kept = np.isin(labels, sorted(channels), invert=True)
        by_group = kept.reshape(int(node.attrs.get("group", 1)), -1)
        groups = np.asarray(by_group.any(axis=1))
        return cls(groups, np.asarray(by_group[groups].all(axis=0)))


def _can_be_fitted(node: gs.Node) -> bool:
    """Whether it is a layer of known weights of its own and few enough inputs."""
    weights = constant(node.inputs[1]) if is_operator(node, "Conv", "Gemm", "MatMul") else None
    if weights is None or constant(node.inputs[0]) is not None or len(node.inputs[1].outputs) > 1:
        return False
    if node.op == "Gemm" and (int(node.attrs.get("transA", 0)) or float(node.attrs.get("alpha", 1)) != 1):
        return False
    if node.op == "MatMul" and weights.ndim != 2:
        return False
    return int(by_inputs(node, weights).shape[1]) <= LARGEST_INNER


def _fitted(
    node: gs.Node, exact: gs.Node, kept: _Kept, changed: Sequence[Array], original: Sequence[Array]
) -> tuple[Array, Array] | None:
    """The weights that bring a layer nearest to the original's outputs, and what is added; None if nothing is known."""

    def rows(x: Array, random: np.random.Generator, most: int) -> Array:
        return rows_of(exact, x, random, most)[kept.groups]

    def between(part: slice) -> Covariances:
        return covariances(drawn(functools.partial(rows_of, node), changed[part]), drawn(rows, original[part]))

    known = between(slice(None))
    if not known.finite or known.vectors < FEWEST_VECTORS:
        return None
    wanted = by_inputs(exact, exact.inputs[1].values)[kept.groups][:, :, kept.outputs]
    left = by_inputs(node, node.inputs[1].values)
    damping = _DAMPINGS[-1]
    if len(changed) > 1:
        fitting, judging = between(slice(0, None, 2)), between(slice(1, None, 2))
        damping = min(_DAMPINGS, key=lambda each: _lost(judging, least_squares(fitting, wanted, left, each), wanted))
    fitted = least_squares(known, wanted, left, damping)
    stored = rounded(np.ascontiguousarray(as_stored(node, fitted, node.inputs[1].shape)))
    fitted = by_inputs(node, stored)
    offsets = (known.other_mean[:, None] @ wanted - known.mean[:, None] @ fitted).reshape(-1)
    return stored, offsets


def _lost(known: Covariances, fitted: Array, wanted: Array) -> float:
    """The variance of y W' - x W, but for what does not depend on W'."""
    return float((fitted * (known.moments @ fitted - 2 * (known.mixed @ wanted))).sum())
