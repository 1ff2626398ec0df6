"""BatchNormalization into what comes before it: Conv, ConvTranspose, Gemm, MatMul, MatMul + Add.

In inference BatchNormalization is an affine map of every channel, which the weights before it can absorb:

    y = scale * (x - mean) / sqrt(variance + epsilon) + B = factor * x + (B - factor * mean)
    factor = scale / sqrt(variance + epsilon)

Behind a MatMul without a bias, the shift stays as an Add.
Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.linear import Linear, find_linear, fold, why_not_fold
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.patterns import Uses, constant, has_output, is_operator, scopes, summary
from lepton_compile.target import Target

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BatchNormalization(Pass):
    """Fold BatchNormalization into the weights of the Conv, ConvTranspose, Gemm or MatMul before it."""

    name = "batch_normalization"
    stage = Stage.CANONICALISE
    after = ("common_subexpressions", "constant_folding", "no_operations")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose where a BatchNormalization can be folded."""
        found: list[str] = []
        refusals: list[str] = []
        uses = Uses(graph)
        for node, linear in _candidates(graph):
            if why := _why_not(uses, node, linear):
                refusals.append(why)
            else:
                found.append(f"{node.name} into {linear.name}")
        if not found:
            return Decline("no BatchNormalization can move into the weights before it", tuple(refusals))
        return Proposal(self, f"{len(found)} need no kernel of their own: {summary(found)}", tuple(refusals))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fold them."""
        uses = Uses(graph)
        for node, linear in list(_candidates(graph)):
            if _why_not(uses, node, linear):
                continue
            affine = _affine(node)
            assert affine is not None
            scale, shift = affine
            if linear.takes_shift or not shift.any():
                fold(uses, linear, scale, shift)
                uses.bypass(node, [(node.outputs[0], linear.output)])
            else:
                fold(uses, linear, scale, np.zeros_like(shift))
                values = shift.astype(np.asarray(linear.weight.values).dtype)
                node.inputs = [linear.output, gs.Constant(uses.fresh_name(f"{node.name}_shift"), values)]
                node.outputs = node.outputs[:1]
                node.op, node.attrs = "Add", {}
        return graph


def _candidates(graph: Graph) -> Iterator[tuple[gs.Node, Linear]]:
    """BatchNormalizations with the linear node that they normalise, channel by channel."""
    for scope in scopes(graph):
        for node in scope.nodes:
            if is_operator(node, "BatchNormalization"):
                linear = find_linear(node.inputs[0])
                # The channels of BatchNormalization are axis 1; a MatMul's are its last.
                if linear is not None and linear.axis == 1:
                    yield node, linear


def _why_not(uses: Uses, node: gs.Node, linear: Linear) -> str:
    if node.attrs.get("training_mode", 0) or any(has_output(node, index) for index in range(1, len(node.outputs))):
        return f"{node.name}: it is in training mode"
    affine = _affine(node)
    if affine is None:
        return f"{node.name}: its scale, bias, mean and variance are not all constants"
    return why_not_fold(uses, linear, node, *affine)


def _affine(node: gs.Node) -> tuple[Array, Array] | None:
    """Scale and shift of every channel, in float64."""
    values = [constant(tensor) for tensor in node.inputs[1:5]]
    if len(values) != 4 or any(value is None for value in values):
        return None
    scale, bias, mean, variance = (np.asarray(value, dtype=np.float64) for value in values)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        return factor, bias - factor * mean
