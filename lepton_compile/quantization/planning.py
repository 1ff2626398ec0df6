"""From a contract and what layers take on the target to the recipe that pays, and to what the report says of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.evaluation.contract import Contract, Judgement
from lepton_compile.model import Graph
from lepton_compile.quantization.calibration import TRIAL_SAMPLES, Calibrated, calibrate
from lepton_compile.quantization.choice import Assignment, Table, choose, fastest, sparing
from lepton_compile.quantization.dynamic import find_dynamic, shares
from lepton_compile.quantization.layers import Group, Layer, find_layers
from lepton_compile.quantization.recipe import (
    BFLOAT16,
    DYNAMIC_INT8,
    INT4_WEIGHTS,
    INT8,
    INT16_WEIGHTS,
    PRECISIONS,
    WEIGHT_BITS,
    Recipe,
    follow,
)
from lepton_compile.quantization.reconstruction import NEAREST, Reconstruction, reconstructed
from lepton_compile.quantization.shrinking import shrink
from lepton_compile.quantization.trials import Trial, losses
from lepton_compile.quantization.weight_only import weights_lost
from lepton_compile.reporting.quantities import format_seconds
from lepton_compile.rewriting.biases import add_to_outputs, correctable
from lepton_compile.rewriting.limits import Limit, Resource
from lepton_compile.rewriting.passes import Context

# How many samples show what each layer costs alone: at least, at most, and as many as so many multiplications allow.
_SAMPLES = 4, 64
_MULTIPLICATIONS = 2**31
# How many samples weights of few bits are fitted to at most.
_RECONSTRUCTING = 512
# What longer names in the library that is built in the end may take.
_NAMES = 256
# How often what is measured may correct what layers are expected to save, or take.
_ATTEMPTS = 4
# What rounding both factors to 8 bits of mantissa takes from a product, relative to it: 2^-9 each, evenly distributed.
_BFLOAT16_ERROR = 2.0**-9 * math.sqrt(2 / 3)


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


def predicted_gain(graph: Graph, layers: Sequence[Layer], halves: Sequence[str]) -> str:
    """What could be gained with a contract, in one line."""
    nodes = {node.name: node for node in graph.gs.nodes}
    total = sum(_multiplications(nodes[layer.node], layer) for layer in layers)
    found = []
    if layers:
        found.append(
            f"{len(layers)} layers of {total / 1e6:.4g} million multiplications could compute in integers, four at a "
            "time and from weights of a quarter of the size"
        )
    if halves:
        found.append(f"{len(halves)} layers could compute in bfloat16, two products at a time")
    return "; ".join(found) or "weights could take 16, 8 or 4 bits"


def plan(
    graph: Graph,
    groups: Sequence[Group],
    halves: Sequence[str],
    limited: Sequence[Limit],
    context: Context,
    saved: float | None = None,
) -> Planned:
    """Plan the quantization of a graph.

    Args:
        graph: The graph.
        groups: What the layers that could compute in int8 read.
        halves: The layers that could compute in bfloat16.
        limited: What may be taken. Of size and memory, else as much as is fastest; where a run takes less time, layers
            that cost most of the metric stay in float32.
        context: Its contract judges; its `measure`, if there is one, says what steps take.
        saved: What share of the time that could be saved is, whatever the limits; None: what they ask for.
    """
    contract = context.contract
    assert contract is not None
    storage = [limit for limit in limited if limit.resource is not Resource.LATENCY]
    latency = next((limit.most for limit in limited if limit.resource is Resource.LATENCY), None)
    study = _Study(graph, groups, contract, calibrate(graph, groups, contract), context, storage)
    if storage:
        found = _small_enough(study, graph)
        if isinstance(found, str):
            asked = " and ".join(f"{limit.resource.value} of {limit.amount(limit.most)}" for limit in storage)
            return Planned(None, f"the budget for {asked} cannot be kept: {found}", (), {})
        study = found
    candidates = {
        INT8: [name for name in study.calibrated.recipe.precisions if study.base.get(name) != INT4_WEIGHTS],
        BFLOAT16: [name for name in halves if study.base.get(name, INT16_WEIGHTS) == INT16_WEIGHTS],
    }
    gains = study.gains(candidates)
    best = fastest(gains)
    dynamic = find_dynamic(graph, [name for name, precision in best.items() if precision == INT8])
    if dynamic and study.excess(best) > 0:
        # Ranges of each run take more time than fixed ones: they are of use where what is fastest does not hold.
        candidates[DYNAMIC_INT8] = dynamic
        gains = study.gains(candidates)
    choice = choose(gains, lambda: study.alone(candidates), study.excess)
    uniform = [dict.fromkeys(names, precision) for precision, names in candidates.items() if names]
    held = [choice.taken, *(each for each in uniform if context.measure and study.excess(each) <= 0)]

    def fits(choice: Assignment) -> bool:
        return not storage or study.over(choice) <= max(-_NAMES, study.over({}))

    quickest = next(filter(fits, sorted((each for each in held if each), key=study.seconds)), {})
    alone = choice.alone
    if saved is not None and context.measure is not None:
        latency = study.seconds({}) - saved * (study.seconds({}) - study.seconds(quickest))
    if latency is not None and study.seconds(quickest) < latency:
        alone = alone or study.alone(candidates)
        quickest = _sparing(study, gains, alone, quickest, latency, fits)
    unchanged, changed = study.seconds({}), study.seconds(quickest)
    faster = bool(quickest) and (context.measure is None or changed < unchanged)
    chosen: Assignment = quickest if faster else {}
    taken = study.completed(chosen)
    slower, damaging = _refusals(gains, taken, contract)
    refusals = (*slower, *damaging)
    findings: dict[str, object] = {
        "layers": _ranking(
            candidates, gains if context.measure else {}, study.calibrated, alone, taken, study.recipe(taken)
        )
    }
    if not taken:
        reason = "no layer holds the contract" if damaging else "no layer is faster in another precision"
        if quickest:
            reason = f"the whole would not be faster: {format_seconds(changed)} instead of {format_seconds(unchanged)}"
        return Planned(None, reason, refusals, findings)
    judgement = study.judge(chosen)
    findings["metric"] = _metric(contract, judgement)
    reason = f"{_counts(taken)}; {contract.metric_name} {judgement}"
    if context.measure is not None and faster:
        findings |= {"before": {"latency": unchanged}, "after": {"latency": changed}}
        reason += f"; {format_seconds(unchanged)} become {format_seconds(changed)}"
    return Planned(study.recipe(chosen), reason, refusals, findings)


def _small_enough(study: _Study, graph: Graph) -> _Study | str:
    """The study on top of weights of few bits with which the library fits, or why there are none."""
    if study.over({}) <= 0:
        return study
    found = _smaller(study, graph, -_NAMES)
    return _smaller(study, graph, 0) if isinstance(found, str) else found


def _smaller(study: _Study, graph: Graph, aim: int) -> _Study | str:
    most, over = aim, 0
    for _ in range(_ATTEMPTS):
        shrunk = shrink(graph, most, study.over, lambda base: study.on(base).excess({}), study.price)
        if shrunk.assignment is None:
            return f"the smallest choice is {over} bytes too large" if over else shrunk.reason
        found = study.on(shrunk.assignment)
        # What makes up for lost weights is known now, and with it which kernels are the same.
        over = found.over({}) - aim
        if over <= 0:
            return found
        most -= over
    return f"the smallest choice that was tried is {over} bytes too large"


def _sparing(
    study: _Study, gains: Table, alone: Table, quickest: Assignment, budget: float, fits: Callable[[Assignment], bool]
) -> Assignment:
    """A choice that is fast enough, holds, and gives up less than the quickest one, if there is one."""
    unchanged = study.seconds({})
    needed = unchanged - budget
    for _ in range(_ATTEMPTS if needed > 0 else 0):
        tried = sparing(gains, alone, needed)
        seconds = study.seconds(tried)
        if seconds <= budget:
            return tried if fits(tried) and study.excess(tried) <= 0 else quickest
        needed += 1.1 * (seconds - budget)
    return quickest if needed > 0 else {}


class _Study:
    """A graph with some of its layers in other precisions, judged and measured; nothing twice.

    Attributes:
        calibrated: How every layer could be quantized.
        base: What is decided already; every assignment comes on top of it.
    """

    def __init__(
        self,
        graph: Graph,
        groups: Sequence[Group],
        contract: Contract,
        calibrated: Calibrated,
        context: Context,
        storage: Sequence[Limit],
        base: Assignment = MappingProxyType({}),
        made_up: Reconstruction = NEAREST,
    ) -> None:
        self.calibrated = calibrated
        self.base = base
        self._made_up = made_up
        self._context = context
        self._graph = graph
        self._groups = groups
        self._contract = contract
        self._storage = storage
        self._judged: dict[frozenset[tuple[str, str]], Judgement] = {}
        self._measured: dict[frozenset[tuple[str, str]], Mapping[str, float]] = {}
        self._over: dict[frozenset[tuple[str, str]], int] = {}
        self._on: dict[frozenset[tuple[str, str]], _Study] = {}

    def completed(self, assignment: Assignment) -> Assignment:
        """An assignment on top of what is decided already."""
        return {**self.base, **assignment}

    def recipe(self, assignment: Assignment) -> Recipe:
        """How to quantize so."""
        return self.calibrated.restricted(self.completed(assignment), self._groups, self._made_up)

    def on(self, base: Assignment) -> _Study:
        """The same on top of weights of few bits, which are rounded so that each layer makes up for those before it.

        Where samples are too few for that, and those that are held out lose more by it, weights are the nearest ones.
        """
        key = frozenset(base.items())
        if key not in self._on:
            bits = _fewer_bits(base)
            samples = [each.sample.inputs for each in self._contract.samples(_RECONSTRUCTING)]
            facts = self._graph, self._groups, self._contract, self.calibrated, self._context, self._storage
            ways = [_Study(*facts, base)]
            if bits:
                made_up = reconstructed(self._graph, self.quantized(base), bits, samples)
                ways.append(_Study(*facts, base, made_up))
            self._on[key] = min(ways, key=lambda study: study.excess({}))
        return self._on[key]

    def quantized(self, assignment: Assignment) -> Graph:
        """The graph, quantized so; the shapes of what is new are not known."""
        return follow(self.recipe(assignment), self._graph.copy())

    def judge(self, assignment: Assignment) -> Judgement:
        """What samples that are held out say of it."""
        key = frozenset(self.completed(assignment).items())
        if key not in self._judged:
            self._judged[key] = self._contract.judge(self.quantized(assignment))
        return self._judged[key]

    def excess(self, assignment: Assignment) -> float:
        """By how much more than allowed the metric drops, its standard error included."""
        judgement = self.judge(assignment)
        return judgement.expected_drop - self._contract.max_drop

    def seconds(self, assignment: Assignment) -> float:
        """What a run takes, measured or predicted; nothing where there is neither."""
        return math.fsum(self._steps(assignment).values())

    def over(self, assignment: Assignment) -> int:
        """By how many bytes too much is taken, with room for what makes up for lost weights until that is known."""
        key = frozenset(self.completed(assignment).items())
        if key not in self._over:
            made = self.quantized(assignment)
            if not self.base:
                counts = correctable(self._graph, _fewer_bits(assignment))
                add_to_outputs(made, {name: [1.0] * count for name, count in counts.items()})
            made.infer_shapes()
            self._over[key] = max(math.ceil(limit.taken(made) - limit.most) for limit in self._storage)
        return self._over[key]

    def gains(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """What each layer saves in the precisions that it could compute in; 1 where nothing is known."""
        before = self._steps({})
        found: dict[str, dict[str, float]] = {}
        for precision, names in candidates.items():
            assignment = dict.fromkeys(names, precision)
            after = self._steps(assignment)
            shared = shares(self.quantized(assignment)) if precision == DYNAMIC_INT8 else {}
            for name in names:
                node, share = shared.get(name, ("", 0.0))
                gain = _of(name, before) - _of(name, after) - share * _of(node, after) if self._context.measure else 1.0
                found.setdefault(name, {})[precision] = gain
        return found

    def alone(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """What each layer costs of the metric alone, on samples that calibrate.

        Metrics that count have no small numbers; what they do not tell apart, the loss of the layer's output does. In
        bfloat16 a layer costs as much less as its output loses less.
        """
        costs: dict[str, dict[str, float]] = {}
        lost = {name: loss.error for name, loss in self.calibrated.losses.items()}
        for name in candidates[INT8]:
            costs[name] = {INT8: self.drop({name: INT8}) + 1e-3 * lost[name]}
        for name, error in self._lost_dynamically(candidates.get(DYNAMIC_INT8, ())).items():
            costs[name][DYNAMIC_INT8] = self.drop({name: DYNAMIC_INT8}) + 1e-3 * error
        for name in candidates[BFLOAT16]:
            if name in costs:
                ratio = min(_BFLOAT16_ERROR / math.sqrt(lost[name] or 1.0), 1.0)
                costs[name][BFLOAT16] = ratio * costs[name][INT8]
            else:
                costs[name] = {BFLOAT16: self.drop({name: BFLOAT16}) + 1e-3 * _BFLOAT16_ERROR**2}
        return costs

    @cached_property
    def _pricing(self) -> int:
        """How many samples show what layers cost."""
        nodes = {node.name: node for node in self._graph.gs.nodes}
        work = sum(_multiplications(nodes[layer.node], layer) for layer in find_layers(self._graph)[0])
        return int(np.clip(_MULTIPLICATIONS // max(work, 1), *_SAMPLES))

    def drop(self, assignment: Assignment) -> float:
        """What it costs of the metric, on samples that calibrate."""
        samples = self._contract.samples(self._pricing)
        return max(self._contract.judge(self.quantized(assignment), samples).drop, 0.0)

    def price(self, layer: str, precision: str) -> float:
        """What a layer's weights in few bits cost of the metric, on samples that calibrate.

        Metrics that count have no small numbers; what they do not tell apart, what the weights lose does. In 16 bits
        that is next to nothing.
        """
        lost = weights_lost(self._graph, layer, WEIGHT_BITS[precision])
        return (0.0 if precision == INT16_WEIGHTS else self.drop({layer: precision})) + 1e-3 * lost

    def _lost_dynamically(self, names: Sequence[str]) -> dict[str, float]:
        """What the outputs of layers lose in int8 with the ranges of each run, as mean squares over mean squares."""
        layers = [layer for group in self._groups for layer in group.layers if layer.node in names]
        samples = [each.sample.inputs for each in self._contract.samples(TRIAL_SAMPLES)]
        smoothing = self.calibrated.recipe.smoothing
        trials = [Trial(layer, None, smoothing.get(layer.input)) for layer in layers]
        found = losses(self._graph, trials, samples)
        return {layer.node: loss.error for layer, loss in zip(layers, found, strict=True)}

    def _steps(self, assignment: Assignment) -> Mapping[str, float]:
        key = frozenset(self.completed(assignment).items())
        if self._context.measure is None:
            return {}
        if key not in self._measured:
            made = self.quantized(assignment)
            made.infer_shapes()
            self._measured[key] = self._context.measure(made)
        return self._measured[key]


def _fewer_bits(assignment: Assignment) -> dict[str, int]:
    """The nodes whose weights take so few bits under float32 that it shows, and how many."""
    return {name: bits for name, each in assignment.items() if (bits := WEIGHT_BITS.get(each, 16)) < 16}


def _of(name: str, seconds: Mapping[str, float]) -> float:
    """Seconds of the steps that compute a node."""
    return math.fsum(taken for nodes, taken in seconds.items() if name in nodes.split("\n"))


def _refusals(
    gains: Mapping[str, Mapping[str, float]], taken: Assignment, contract: Contract
) -> tuple[list[str], list[str]]:
    """The layers that stay as they are: since float32 is faster, and since they damage too much."""
    slower, damaging = [], []
    for name, by_precision in gains.items():
        precision, gain = max(by_precision.items(), key=lambda item: item[1])
        if name in taken:
            continue
        if gain <= 0:
            slower.append(f"{name}: float32 is faster than {precision}, by {-gain * 1e6:.0f} us")
        else:
            damaging.append(f"{name}: {contract.metric_name} would drop too far with it")
    return slower, damaging


def _counts(taken: Assignment) -> str:
    counts = Counter(taken.values())
    return (
        f"layers: {', '.join(f'{counts[precision]} in {precision}' for precision in PRECISIONS if counts[precision])}"
    )


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
    candidates: Mapping[str, Sequence[str]],
    gains: Mapping[str, Mapping[str, float]],
    calibrated: Calibrated,
    alone: Mapping[str, Mapping[str, float]],
    taken: Assignment,
    recipe: Recipe,
) -> list[dict[str, object]]:
    """The layers, the one that suffers most first."""

    def damage(name: str) -> tuple[float, float]:
        loss = calibrated.losses.get(name)
        return max(alone.get(name, {"": 0.0}).values()), loss.error if loss else 0.0

    names = {name: None for every in candidates.values() for name in every}
    order = sorted(names, key=lambda name: (*(-each for each in damage(name)), name))
    return [
        {
            "layer": name,
            "precision": taken.get(name, "float32"),
            "seconds saved": gains.get(name),
            "relative error of its output": math.sqrt(loss.error) if (loss := calibrated.losses.get(name)) else None,
            "drop of the metric alone": alone.get(name),
            "weights": "rounded together" if name in recipe.rounding else None,
        }
        for name in order
    ]


def _multiplications(node: gs.Node, layer: Layer) -> int:
    outputs, weights = node.outputs[0].shape, node.inputs[1].shape
    if outputs is None:
        return 0
    return int(np.prod(outputs)) * int(np.prod(weights)) // int(weights[layer.output_axis])
