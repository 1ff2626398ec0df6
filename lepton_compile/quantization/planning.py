"""From a contract and what layers take on the target to the recipe that pays, and to what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.contract import Contract, Judgement
from lepton_compile.model import Graph
from lepton_compile.quantization.calibration import Calibrated, calibrate
from lepton_compile.quantization.choice import choose
from lepton_compile.quantization.layers import Group, Layer
from lepton_compile.quantization.recipe import Recipe, follow
from lepton_compile.rewriting.passes import Context

# How many samples show what each layer costs alone.
_SAMPLES = 4


@dataclass(frozen=True)
class Planned:
    """What came of it.

    Attributes:
        recipe: The recipe; None where nothing is to be quantized.
        reason: Why, in one line.
        refusals: The layers that stay in floating point, each with why.
        findings: For the report, as JSON values: the metric, the seconds, and each layer's gain and damage.
    """

    recipe: Recipe | None
    reason: str
    refusals: tuple[str, ...]
    findings: Mapping[str, object]


def predicted_gain(graph: Graph, layers: Sequence[Layer]) -> str:
    """What could be gained with a contract, in one line."""
    work = {node.name: _multiplications(node) for node in graph.gs.nodes if len(node.inputs) > 1}
    total = sum(work[layer.node] for layer in layers)
    return (
        f"{len(layers)} layers of {total / 1e6:.4g} million multiplications could compute in integers, four at a time "
        "and from weights of a quarter of the size"
    )


def plan(graph: Graph, groups: Sequence[Group], context: Context) -> Planned:
    """Plan the quantization of a graph.

    Args:
        graph: The graph.
        groups: What its layers read.
        context: Its contract judges; its `measure`, where there is one, says what layers take.
    """
    contract = context.contract
    assert contract is not None
    every = [layer.node for group in groups for layer in group.layers]
    calibrated = calibrate(graph, groups, contract)
    study = _Study(graph, groups, contract, calibrated)
    if context.measure is None:
        gains, before = dict.fromkeys(every, 1.0), None
    else:
        before = context.measure(graph)
        after = context.measure(study.quantized(frozenset(every)))
        gains = {name: _of(name, before) - _of(name, after) for name in every}
    choice = choose(gains, study.alone, study.excess)
    slower = [f"{name}: float32 is faster, by {-gain * 1e6:.0f} us" for name, gain in gains.items() if gain <= 0]
    damaging = [
        f"{name}: {contract.metric_name} would drop too far with it"
        for name, gain in gains.items()
        if gain > 0 and name not in choice.taken
    ]
    refusals = (*slower, *damaging)
    findings: dict[str, object] = {
        "layers": _ranking(every, gains if before else {}, calibrated, choice.alone, choice.taken)
    }
    if not choice.taken:
        reason = "no layer holds the contract" if damaging else "no layer is faster in integers"
        return Planned(None, reason, refusals, findings)
    judgement = study.judge(choice.taken)
    findings["metric"] = _metric(contract, judgement)
    reason = f"{len(choice.taken)} of {len(every)} layers compute in integers; {contract.metric_name} {judgement}"
    if before is not None and context.measure is not None:
        taken = context.measure(study.quantized(choice.taken))
        exact, quantized = math.fsum(before.values()), math.fsum(taken.values())
        findings["seconds"] = {"float32": exact, "quantized": quantized}
        if quantized >= exact:
            reason = f"the whole would not be faster: {quantized * 1e3:.3f} ms instead of {exact * 1e3:.3f}"
            return Planned(None, reason, refusals, findings)
        reason += f"; {exact * 1e3:.3f} ms become {quantized * 1e3:.3f}"
    return Planned(calibrated.restricted(choice.taken, groups), reason, refusals, findings)


class _Study:
    """A graph with some of its layers quantized, judged."""

    def __init__(self, graph: Graph, groups: Sequence[Group], contract: Contract, calibrated: Calibrated) -> None:
        self._graph = graph
        self._groups = groups
        self._contract = contract
        self._calibrated = calibrated
        self._judged: dict[frozenset[str], Judgement] = {}

    def quantized(self, layers: frozenset[str]) -> Graph:
        """The graph with these layers quantized."""
        made = follow(self._calibrated.restricted(layers, self._groups), self._graph.copy())
        made.infer_shapes()
        return made

    def judge(self, layers: frozenset[str]) -> Judgement:
        """What samples that are held out say of it."""
        if layers not in self._judged:
            self._judged[layers] = self._contract.judge(self.quantized(layers))
        return self._judged[layers]

    def excess(self, layers: frozenset[str]) -> float:
        """By how much more than allowed the metric drops, its standard error included."""
        judgement = self.judge(layers)
        return judgement.drop + judgement.error - self._contract.max_drop

    def alone(self) -> dict[str, float]:
        """What each layer costs of the metric alone, on samples that calibrate.

        Metrics that count have no small numbers; what they do not tell apart, the loss of the layer's output does.
        """
        samples = self._contract.samples(_SAMPLES)
        costs = {}
        for name, loss in self._calibrated.losses.items():
            drop = self._contract.judge(self.quantized(frozenset([name])), samples).drop
            costs[name] = max(drop, 0.0) + 1e-3 * loss.error
        return costs


def _of(name: str, seconds: Mapping[str, float]) -> float:
    """Seconds of the steps that compute a node."""
    return math.fsum(taken for nodes, taken in seconds.items() if name in nodes.split("\n"))


def _metric(contract: Contract, judgement: Judgement) -> dict[str, object]:
    return {
        "name": contract.metric_name,
        "original": judgement.original,
        "quantized": judgement.value,
        "standard error of the difference": judgement.error,
        "samples held out": judgement.samples,
        "most it may drop": contract.max_drop,
    }


def _ranking(
    layers: Sequence[str],
    gains: Mapping[str, float],
    calibrated: Calibrated,
    alone: Mapping[str, float],
    taken: frozenset[str],
) -> list[dict[str, object]]:
    """The layers, the one that suffers most first."""
    order = sorted(layers, key=lambda name: (-alone.get(name, 0.0), -calibrated.losses[name].error, name))
    return [
        {
            "layer": name,
            "precision": "int8" if name in taken else "float32",
            "seconds saved": gains.get(name),
            "relative error of its output": math.sqrt(calibrated.losses[name].error),
            "drop of the metric alone": alone.get(name),
        }
        for name in order
    ]


def _multiplications(node: gs.Node) -> int:
    outputs, weights = node.outputs[0].shape, node.inputs[1].shape
    if outputs is None or weights is None:
        return 0
    return int(np.prod(outputs)) * int(np.prod(weights[1:]))
