"""Quantization: layers compute in int8 or bfloat16 where that is faster, as far as the accuracy contract allows.

Where a budget for size or memory asks for it, weights take 16, 8 or 4 bits as well.

    y = conv(x, w, b)   ->   y = conv(dequantize(quantize(x)), dequantize(W), dequantize(B))
    y = conv(x, w, b)   ->   y = conv(float32(bfloat16(x)), float32(bfloat16(w)), b)
    y = x w + b         ->   y = float32(matmul_integer(q, W, z)) (s t) + b,   q, s, z = dynamic_quantize(x)

Activations are unsigned bytes with a zero point, weights signed bytes around 0 with a scale for each output, biases
int32 in the unit of the sums (Jacob et al., 2018, arXiv:1712.05877). Matrix products may also read what is quantized by
the range that it has in each run, which is slower and holds where ranges differ from input to input. Other ranges,
smoothing and corrections come from the contract's samples, as `lepton_compile.quantization.calibration` says; which
layers, from what each saves on the target and costs of the metric, as `lepton_compile.quantization.choice` says.
Samples that are held out have the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lepton_compile.model import Graph
from lepton_compile.model.fingerprints import fingerprint
from lepton_compile.quantization.layers import find_groups, find_layers
from lepton_compile.quantization.narrowing import find_products
from lepton_compile.quantization.planning import plan, predicted_gain
from lepton_compile.quantization.recipe import BFLOAT16, INT8, PRECISIONS, Recipe, follow
from lepton_compile.rewriting.limits import Resource, limits
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.quantization import is_narrowing, is_restoring

if TYPE_CHECKING:
    from lepton_compile.target import Target


@dataclass(frozen=True)
class Quantization(Pass):
    """Let layers compute in integers of eight bits, or in bfloat16, under an accuracy contract.

    Attributes:
        layers: Names of the layers, and what each computes in, "int8", "dynamic int8" or "bfloat16", or keeps its
            weights in while it computes in float32: "int16 weights", "int8 weights" or "int4 weights".
        scales: Scale and zero point of what layers in int8 read, by tensor.
        smoothing: What the channels of some of these tensors are divided by before.
        corrections: What is added to the outputs of some of the layers.
        rounding: By how much the integers of some of the layers' weights differ from the nearest ones, compressed.
        saved: How much of the time that could be saved is, as a share; None: all, or what a budget asks for.
    """

    name = "quantization"
    stage = Stage.QUANTIZE
    exact = False
    choices: ClassVar[Mapping[str, Sequence[object]]] = {"saved": (0.0, 0.25, 0.5, 0.75, 1.0)}

    layers: tuple[tuple[str, str], ...] = ()
    scales: tuple[tuple[str, float, int], ...] = ()
    smoothing: tuple[tuple[str, tuple[float, ...]], ...] = ()
    corrections: tuple[tuple[str, tuple[float, ...]], ...] = ()
    rounding: tuple[tuple[str, str], ...] = ()
    saved: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ValueError: `saved` is no share.
        """
        if self.saved is not None and not (isinstance(self.saved, (int, float)) and 0 <= self.saved <= 1):
            raise ValueError("saved is a share of the time that could be saved: a number from 0 to 1")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose the layers that pay."""
        if any(is_narrowing(node) or is_restoring(node) for node in graph.nodes()):
            return Decline("the model is quantized; it keeps its numbers")
        precisions, limited = _useful(target), limits(graph, target, context)
        storage = any(limit.resource is not Resource.LATENCY for limit in limited)
        layers, refusals = find_layers(graph) if INT8 in precisions else ([], [])
        halves = find_products(graph) if BFLOAT16 in precisions else []
        if self.saved == 0 and not storage:
            return Decline("no time is to be saved by it")
        if not precisions and not storage:
            return Decline(_why_not(target))
        if not layers and not halves and not storage:
            return Decline(f"no layer could compute in {' or '.join(precisions)}", tuple(refusals))
        groups = find_groups(graph, layers)
        if context.contract is None:
            return Proposal(self, predicted_gain(graph, layers, halves), tuple(refusals))
        # What an earlier pass asked about the same graph, to know what would become of it, is asked once.
        amounts = tuple((limit.resource, limit.most) for limit in limited)
        key = self.name, fingerprint(graph), amounts, self.saved
        planned = context.contract.once(key, lambda: plan(graph, groups, halves, limited, context, self.saved))
        refusals += planned.refusals
        if planned.recipe is None:
            return Decline(planned.reason, tuple(refusals), planned.findings)
        return Proposal(self._following(planned.recipe), planned.reason, tuple(refusals), planned.findings)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Quantize them."""
        recipe = Recipe(
            dict(self.layers),
            {name: (scale, zero) for name, scale, zero in self.scales},
            dict(self.smoothing),
            dict(self.corrections),
            dict(self.rounding),
        )
        return follow(recipe, graph)

    def _following(self, recipe: Recipe) -> Quantization:
        return replace(
            self,
            layers=tuple(recipe.precisions.items()),
            scales=tuple((name, *scale) for name, scale in recipe.scales.items()),
            smoothing=tuple(recipe.smoothing.items()),
            corrections=tuple(recipe.corrections.items()),
            rounding=tuple(recipe.rounding.items()),
        )


def _useful(target: Target) -> list[str]:
    """The precisions that the policy allows and that are faster than float32."""
    faster = {INT8: target.has_dot_products, BFLOAT16: target.has_bfloat16_dot_products}
    return [precision for precision in target.policy.precision if faster.get(precision, False)]


def _why_not(target: Target) -> str:
    """Why no precision is of use."""
    allowed = [precision for precision in target.policy.precision if precision in PRECISIONS]
    if not allowed:
        return f"the policy of target '{target.name}' is to compute in {', '.join(target.policy.precision)}"
    return f"target '{target.name}' has no instruction that adds products of {' or '.join(allowed)}: float32 is faster"
