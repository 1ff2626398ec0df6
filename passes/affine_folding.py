"""Affine folding: Mul, Div, Add and Sub by constants, one a channel, into the weights before them.

    (W x + b) * s = (s W) x + s b        (W x + b) + t = W x + (b + t)

Before them may be Conv, ConvTranspose, Gemm, MatMul (a scale; a shift with the Add behind it), BatchNormalization and
InstanceNormalization, whose own scale and bias absorb it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.linear import Linear, channel_vector, find_linear, fold, why_not_fold
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, same_type, scopes, summary
from lepton_compile.target import Target

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AffineFolding(Pass):
    """Fold per-channel Mul, Div, Add and Sub by constants into the weights before them."""

    name = "affine_folding"
    stage = Stage.CANONICALISE
    after = ("batch_normalization",)

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where arithmetic with constants can move into weights."""
        uses = Uses(graph)
        found: list[str] = []
        refusals: list[str] = []
        for node, linear, scale, shift in _candidates(graph):
            # x * sigmoid(x) and the like read x several times: no place for folding, and nothing to report.
            if len(linear.output.outputs) > 1:
                continue
            if why := why_not_fold(uses, linear, node, scale, shift):
                refusals.append(why)
            else:
                found.append(f"{node.name} into {linear.name}")
        if not found:
            return Decline("no arithmetic with constants can move into the weights before it", tuple(refusals))
        return Proposal(self, f"{len(found)} become part of weights: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fold them, chains from their beginning."""
        uses = Uses(graph)
        # The generator looks at each node when the ones before it are folded already.
        for node, linear, scale, shift in _candidates(graph):
            if not why_not_fold(uses, linear, node, scale, shift):
                fold(uses, linear, scale, shift)
                uses.bypass(node, [(node.outputs[0], linear.output)])
        return graph


def _candidates(graph: Graph) -> Iterator[tuple[gs.Node, Linear, Array, Array]]:
    for scope in scopes(graph):
        for node in list(scope.nodes):
            if not is_operator(node, "Add", "Sub", "Mul", "Div"):
                continue
            for index in (1, 0):
                if constant(node.inputs[index]) is None or not same_type(node.inputs[1 - index], node.outputs[0]):
                    continue
                linear = find_linear(node.inputs[1 - index])
                vector = None if linear is None else channel_vector(node.inputs[index], linear)
                affine = None if vector is None else _affine(node.op, vector, constant_first=index == 0)
                if linear is None or affine is None or (affine[1].any() and not linear.takes_shift):
                    continue
                yield node, linear, *affine
                break


def _affine(op: str, value: Array, *, constant_first: bool) -> tuple[Array, Array] | None:
    """Scale and shift that the operator applies to its other operand; None for constant / x."""
    one, zero = np.ones_like(value), np.zeros_like(value)
    if op == "Add":
        return one, value
    if op == "Sub":
        return (-one, value) if constant_first else (one, -value)
    if op == "Mul":
        return value, zero
    with np.errstate(all="ignore"):
        return None if constant_first else (1 / value, zero)
