"""End-to-end distillation: the weights of all layers of a pruned graph learn what the original answers.

Only samples are needed, no labels and no training code. What is learned is

    the error of the outputs + the mean of the errors of hints,

hints being what layers inside read, of the channels that are left (Romero et al., "FitNets", 2015, arXiv:1412.6550):
each sample tells thousands of numbers instead of a few, and what is learned stays near the computation of the original.
An error is a mean square, of probabilities too (Brier's score), relative to the variance of the channel (of an output)
or of the tensor (of a hint) over samples. So it has no unit, and outputs of any meaning and magnitude count alike.

Adam (Kingma and Ba, 2015, arXiv:1412.6980) takes steps that are relative to the size of each layer's weights, on a
cycle that warms up and cools down to nothing (Smith and Topin, 2019, arXiv:1708.07120). Where there is time, further
cycles with larger steps begin anew: shallow nets gain from steps that would ruin deep ones. After each pass, samples
that no step has seen judge; the weights that do best there are kept. Normalizations are in inference mode.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from lepton_compile.evaluation.metrics import channel_axis
from lepton_compile.gradients.network import Network
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.repair import Repair, Samples, apply
from lepton_compile.pruning.telling import rounded
from lepton_compile.rewriting.biases import RECURRENT, added_to, correctable
from lepton_compile.rewriting.patterns import constant, is_operator

Array = npt.NDArray[Any]

# Operators of which weights learn: their second input, and of recurrent layers the third.
_TRAINED = "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LSTM", "GRU"
# The largest steps of each cycle with one sample each, as a share of the weights' root mean square. Steps of more
# samples are larger by the square root, as is right for Adam (Malladi et al., 2022, arXiv:2205.10287).
_RATES = 3e-4, 1.3e-3, 6e-3
# How many tensors inside are hints, at equal distances between layers.
_HINTS = 8
# The share of a cycle in which steps grow.
_WARM = 0.2
# What a channel's variance counts as at least, since one that hardly varies is but noise: so much of that which a sixth
# of the channels have less than. Not of the mean: units may differ, as those of four channels of boxes and one score.
_LEAST_VARIANCE, _QUANTILE = 0.1, 1 / 6
# Samples that variances are estimated from, about.
_MEASURED = 64


@dataclass(frozen=True)
class Distilled:
    """What was learned.

    Attributes:
        repair: Weights and offsets, for the pruned graph as it is before any repair; None if nothing was better than
            what it began with.
        before: The error on samples that judge, with what it began with.
        after: The error with the weights that are kept.
        epochs: Passes that were made in the cycle that did best.
        rate: The largest steps of that cycle, as a share of weights.
        late: Whether there was no time for more.
    """

    repair: Repair | None
    before: float
    after: float
    epochs: int
    rate: float
    late: bool


def distil(
    original: Graph,
    pruned: Graph,
    start: Repair,
    structure: Structure,
    channels: Set[int],
    learning: Samples,
    judging: Samples,
    *,
    epochs: int,
    batch: int,
    cycles: int = 1,
    seconds: float = math.inf,
    threads: int = 1,
) -> Distilled:
    """Train the weights of a pruned graph against the original's answers.

    The same arguments give the same weights on the same machine, unless time ends it.

    Args:
        original: The original.
        pruned: What is left of it; it is changed.
        start: What to begin with: what least squares found.
        structure: What `find_groups` says of the original.
        channels: What was removed.
        learning: Inputs to learn from; `start` should have been found with these alone, too.
        judging: Inputs that tell when to stop.
        epochs: Passes over what to learn from, at most, in each cycle.
        batch: Samples of a step.
        cycles: How many cycles begin from the start, each with larger steps than the one before; 3 at most.
        seconds: Of the processor, of the calling thread alone, after which it stops: other programs make it take
            longer, but not stop earlier. A cycle is as long as its first passes make expect.
        threads: Of PyTorch.

    Raises:
        UnsupportedOperatorError: A graph has an operator that cannot be differentiated.
    """
    deadline = time.thread_time() + seconds
    trained = _trainable(pruned)
    nodes = list({node.name: node for node, _ in trained}.values())
    counts = correctable(pruned, [node.name for node in nodes])
    offsets = {name: (0.0,) * count for name, count in counts.items()} | dict(start.offsets)
    apply(Repair(start.weights, offsets), pruned)
    lesson = _Lesson.of(original, pruned, structure, channels, _hints(original, nodes))
    layers = [
        _Layer.of(node, place, lesson.student, offsets.get(node.name) if place == 1 else None)
        for node, place in trained
    ]
    with _on_threads(threads):
        lesson = lesson.measured(learning)
        parameters = [parameter for layer in layers for parameter in layer.parameters]
        begin = [parameter.detach().clone() for parameter in parameters]
        made: list[Distilled] = []
        for number, rate in enumerate(_RATES[:cycles]):
            with torch.no_grad():
                for parameter, value in zip(parameters, begin, strict=True):
                    parameter.copy_(value)
            now = time.thread_time()
            until = now + (deadline - now) / (cycles - number)
            made.append(
                _train(lesson, layers, learning, judging, rate=rate, epochs=epochs, batch=batch, deadline=until)
            )
        return min(made, key=lambda each: each.after)


@dataclass(frozen=True)
class _Layer:
    """A layer that learns; a recurrent one learns what it multiplies its input by and its state apart.

    Attributes:
        name: Its node.
        told: What its weights are called.
        size: The root mean square of its weights at the start, which steps are relative to.
        weights: Its weights.
        bias: What its offsets are part of; None where nothing can be added to its outputs.
        rest: What of `bias` is no offset; the offsets, where there is none but it has some.
    """

    name: str
    told: str
    size: float
    weights: nn.Parameter
    bias: nn.Parameter | None
    rest: Array

    @classmethod
    def of(cls, node: gs.Node, place: int, network: Network, offsets: Sequence[float] | None) -> _Layer:
        """The weights that are this input of a node, of a graph that has offsets already."""
        told = str(node.inputs[place].name)
        weights = network.weights[told]
        size = weights.detach().square().mean().sqrt().item()
        if offsets is None:
            return cls(node.name, told, size, weights, None, np.zeros(0))
        bias = network.weights[added_to(node).name]
        if bias.numel() != len(offsets):  # positions have addends of their own: what is added to all of them stays
            return cls(node.name, told, size, weights, None, np.array(offsets))
        rest = bias.detach().numpy().reshape(-1).astype(np.float64) - np.array(offsets)
        return cls(node.name, told, size, weights, bias, rest)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What it learns."""
        return [self.weights] if self.bias is None else [self.weights, self.bias]

    @property
    def new_weights(self) -> Array:
        """What it has learned, as a repair has it."""
        return rounded(self.weights.detach().numpy())

    @property
    def offsets(self) -> tuple[float, ...]:
        """What it has learned to add to its outputs."""
        if self.bias is None:
            return tuple(self.rest.tolist())
        return tuple((self.bias.detach().numpy().reshape(-1) - self.rest).tolist())


@dataclass(frozen=True)
class _Lesson:
    """What the student has to answer.

    Attributes:
        teacher: The original.
        student: What is left of it.
        kept: Of each tensor that is compared, the indices of its axes that are left.
        outputs: Those of them that are outputs; the others are hints.
        scales: By which factors its squared errors count.
    """

    teacher: Network
    student: Network
    kept: Mapping[str, Sequence[Tensor]]
    outputs: tuple[str, ...]
    scales: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, original: Graph, pruned: Graph, structure: Structure, channels: Set[int], hints: Sequence[str]
    ) -> _Lesson:
        """A lesson of which no scale is known yet."""
        gone = sorted(channels)
        outputs = tuple(tensor.name for tensor in original.gs.outputs if np.dtype(tensor.dtype).kind == "f")
        kept = {
            name: [torch.from_numpy(np.flatnonzero(~np.isin(labels, gone))) for labels in structure.axes[name]]
            for name in (*outputs, *hints)
        }
        return cls(Network(original, list(kept)), Network(pruned, list(kept)), kept, outputs, {})

    def measured(self, samples: Samples) -> _Lesson:
        """The same lesson, its scales by what the original computes of samples."""
        chosen = samples[:: max(1, len(samples) // _MEASURED)]
        means, squares = (dict.fromkeys(self.kept, torch.zeros(())) for _ in range(2))
        for sample in chosen:
            for name, value in self.wanted([sample]).items():
                # Of outputs, each channel has a scale of its own; a hint is one channel.
                own = 1 + channel_axis(value.shape[1:]) if name in self.outputs and value.dim() > 2 else None
                others = [axis for axis in range(value.dim()) if axis != own]
                means[name] = means[name] + value.double().mean(others, keepdim=True) / len(chosen)
                squares[name] = squares[name] + value.double().square().mean(others, keepdim=True) / len(chosen)
        scales = {}
        for name in self.kept:
            variance = (squares[name] - means[name] ** 2).clamp(min=0.0)
            small = torch.quantile(variance.flatten(), _QUANTILE, interpolation="lower")
            variance = torch.maximum(variance, _LEAST_VARIANCE * small)
            alike = len(self.outputs) if name in self.outputs else len(self.kept) - len(self.outputs)
            scales[name] = torch.where(variance > 0, 1 / (alike * variance), torch.zeros_like(variance)).float()
        return replace(self, scales=scales)

    def wanted(self, samples: Samples) -> dict[str, Tensor]:
        """What the original computes, of what is left of it."""
        with torch.no_grad():
            found = _batched(self.teacher, samples)
            for name, value in found.items():
                for axis, places in enumerate(self.kept[name], 1):
                    value = value if len(places) == value.shape[axis] else value.index_select(axis, places)
                found[name] = value
        return found

    def error(self, samples: Samples) -> Tensor:
        """What is learned, on average."""
        wanted, found = self.wanted(samples), _batched(self.student, samples)
        errors = [((found[name] - wanted[name]).square() * scale).mean() for name, scale in self.scales.items()]
        return torch.stack(errors).sum()

    def judged(self, samples: Samples, batch: int) -> float:
        """The error over many samples."""
        with torch.no_grad():
            parts = [samples[place : place + batch] for place in range(0, len(samples), batch)]
            return math.fsum(len(part) * self.error(part).item() for part in parts) / len(samples)


def _train(
    lesson: _Lesson,
    layers: Sequence[_Layer],
    learning: Samples,
    judging: Samples,
    *,
    rate: float,
    epochs: int,
    batch: int,
    deadline: float,
) -> Distilled:
    lesson.student.requires_grad_(False)
    for layer in layers:
        for parameter in layer.parameters:
            parameter.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": layer.parameters} for layer in layers], betas=(0.9, 0.99))
    random = np.random.default_rng(0)
    before = best = lesson.judged(judging, batch)
    kept: Repair | None = None
    planned, epoch, late = epochs, 0, False
    while epoch < planned and not late:
        begin = time.thread_time()
        order = random.permutation(len(learning))
        for place in range(0, len(order), batch):
            if late := time.thread_time() > deadline:
                break
            share = (epoch + place / len(order)) / planned
            for layer, group in zip(layers, optimizer.param_groups, strict=True):
                group["lr"] = rate * math.sqrt(batch) * layer.size * _cycle(share)
            optimizer.zero_grad()
            torch.autograd.backward(lesson.error([learning[number] for number in order[place : place + batch]]))
            optimizer.step()
        epoch += 1
        error = lesson.judged(judging, batch)
        if error < best:
            best = error
            kept = Repair(
                {layer.told: layer.new_weights for layer in layers},
                {layer.name: layer.offsets for layer in layers if layer.rest.size},
            )
        if epoch <= 2:  # so that the cycle ends in time; the first pass of all is slower than others
            left = deadline - time.thread_time()
            planned = int(min(epochs, epoch + max(0.0, left / (time.thread_time() - begin))))
    return Distilled(kept, before, best, epoch, rate, late or planned < epochs)


def _cycle(share: float) -> float:
    """How large steps are, of the largest, when this share of them is done."""
    if share < _WARM:
        return share / _WARM
    return (1 + math.cos(math.pi * (share - _WARM) / (1 - _WARM))) / 2


def _batched(network: Network, samples: Samples) -> dict[str, Tensor]:
    """What a network computes of several samples, along a new first axis."""
    stacked = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    found: dict[str, Tensor] = torch.func.vmap(network)(stacked)
    return found


def _trainable(graph: Graph) -> list[tuple[gs.Node, int]]:
    """The layers of weights of their own, and which input these are."""
    return [
        (node, place)
        for node in graph.gs.nodes
        if is_operator(node, *_TRAINED) and _is_its_own(node.inputs[1])
        for place in (1, 2)
        if place == 1 or (node.op in RECURRENT and _is_its_own(node.inputs[2]))
    ]


def _is_its_own(tensor: gs.Tensor) -> bool:
    weights = constant(tensor)
    return weights is not None and weights.dtype == np.float32 and len(tensor.outputs) == 1


def _hints(original: Graph, layers: Sequence[gs.Node]) -> list[str]:
    """What some of the layers read."""
    given = {tensor.name for tensor in (*original.gs.inputs, *original.gs.outputs)}
    known = original.gs.tensors()
    read = [node.inputs[0].name for node in layers if node.inputs[0].name in known]
    inside = [name for name in dict.fromkeys(read) if name not in given]
    places = np.unique(np.linspace(0, len(inside) - 1, _HINTS).round().astype(int)) if inside else ()
    return [inside[place] for place in places]


@contextmanager
def _on_threads(count: int) -> Iterator[None]:
    """So many threads within one operator of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
