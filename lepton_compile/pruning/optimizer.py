"""Which optimizer makes what is left of a pruned model answer as the original: a choice by data and resources.

    optimizer = g(data, resources)

Least squares, layer by layer in closed form, needs few samples and little time. Adam (Kingma and Ba, 2015,
arXiv:1412.6980) moves the weights of all layers together, so that they make up for each other's errors, but passes all
samples forwards and backwards many times, and with few of them learns them by heart.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import numpy as np

from lepton_compile.errors import TargetError
from lepton_compile.model import Graph
from lepton_compile.model.folding import bytes_of
from lepton_compile.rewriting.patterns import constant, is_operator
from lepton_compile.target import Target

FEWEST_SAMPLES = 40
"""With fewer, one in five of them would not tell when to stop."""
SECONDS = 60.0
"""What Adam may take: a compilation is waited for, and may prune a model up to three times."""

# Passes over all samples: below the one too few for a cycle of the rate of learning, beyond the other not worth it.
_FEWEST_EPOCHS, _MOST_EPOCHS = 4, 20
# Where time allows more passes, so many times as many, at other rates of learning.
_MOST_CYCLES = 3
# A step averages over so many samples, or over fewer where steps would be few.
_LARGEST_BATCH, _FEWEST_STEPS = 16, 32
# The gradients of a product take two products more.
_PRODUCTS = 3
# What share of a core's multiply-adds PyTorch reaches, forwards and backwards.
_REACHED = 0.3
# With fewer multiply-adds of a step, threads would wait for each other at every layer, above all where something else
# runs: with 2.6e9 on two busy cores, two threads took more than five times as long as one.
_FOR_THREADS = 1e10
# Of machines that do not say: hertz.
_FREQUENCY = 2e9
# What share of the machine's memory samples may take, and what layers read of them, and how many bytes that is at least
# and at most.
_SHARE_HELD, _HELD_AT_LEAST, _HELD_AT_MOST = 1 / 64, 64 << 20, 512 << 20
# What share of the memory activations may take, and how many times each is held: for its gradient, and to compute.
_SHARE_OF_MEMORY, _HELD = 0.25, 3


@dataclass(frozen=True)
class Work:
    """What there is to learn from.

    Attributes:
        samples: How many samples to learn from.
        original: Multiply-adds of the original for one sample.
        pruned: Multiply-adds of what is left of it.
        activations: Bytes of all tensors that what is left computes for one sample.
    """

    samples: int
    original: float
    pruned: float
    activations: int

    @classmethod
    def of(cls, original: Graph, pruned: Graph, samples: int) -> Work:
        """What there is to learn from graphs and so many samples."""
        made = sum(bytes_of(tensor) for node in pruned.gs.nodes for tensor in node.outputs if tensor.name)
        return cls(samples, multiply_adds(original), multiply_adds(pruned), made)

    @property
    def epoch(self) -> float:
        """Multiply-adds of one pass over all samples."""
        return self.samples * (self.original + _PRODUCTS * self.pruned)


@dataclass(frozen=True)
class Choice:
    """An optimizer.

    Attributes:
        epochs: Passes over all samples by Adam in each cycle; 0: least squares alone.
        cycles: How often it begins anew, at another rate of learning.
        batch: Samples of a step.
        threads: Of PyTorch.
        reason: Why, in one line.
    """

    epochs: int
    cycles: int
    batch: int
    threads: int
    reason: str


def choose(work: Work, machine: Target | None, seconds: float = SECONDS, installed: bool | None = None) -> Choice:
    """Choose by data and resources.

    Args:
        work: The data.
        machine: The machine that compiles, with what this process may use of it; None: not known.
        seconds: What optimizing may take.
        installed: Whether PyTorch is; None: look.
    """
    if work.samples < FEWEST_SAMPLES:
        return _least_squares(f"{work.samples} samples are fewer than the {FEWEST_SAMPLES} that Adam would need")
    if not (_has_torch() if installed is None else installed):
        return _least_squares("Adam needs PyTorch, the extra 'distillation', which is not installed")
    if machine is None:
        return _least_squares("what this machine can compute is not known")
    resources = machine.resources
    memory = resources.memory_bytes
    batch = min(_LARGEST_BATCH, max(1, work.samples // _FEWEST_STEPS))
    if memory is not None:
        fitting = int(_SHARE_OF_MEMORY * memory / (_HELD * max(work.activations, 1)))
        if not fitting:
            return _least_squares(
                f"the activations of one sample are {work.activations / 1e6:.0f} MB, of {memory / 1e6:.0f} MB of memory"
            )
        batch = min(batch, fitting)
    threads = resources.cores if batch * work.epoch / work.samples >= _FOR_THREADS else 1
    peak = resources.multiply_adds * threads * (resources.frequency_hz or _FREQUENCY) * machine.vector_bytes / 4
    passes = math.floor(seconds * _REACHED * peak / max(work.epoch, 1.0))
    epochs = min(_MOST_EPOCHS, passes)
    cycles = min(_MOST_CYCLES, max(1, passes // _MOST_EPOCHS))
    figures = (
        f"{work.samples} samples take {work.epoch / 1e9:.1f} billion multiply-adds a pass, and this machine is "
        f"expected to do {_REACHED * peak / 1e9:.1f} a second"
    )
    if epochs < _FEWEST_EPOCHS:
        return _least_squares(f"{figures}: in {seconds:.0f} s Adam would not pass {_FEWEST_EPOCHS} times over them")
    plan = f"{epochs} passes in steps of {batch}{f' at each of {cycles} rates of learning' if cycles > 1 else ''}"
    return Choice(epochs, cycles, batch, threads, f"Adam behind least squares, as {figures}: {plan}")


def this_machine() -> Target | None:
    """The machine that compiles; None where it cannot be sensed."""
    from lepton_compile.target.host import sense_host

    try:
        return sense_host()
    except TargetError:
        return None


def held_bytes(machine: Target | None) -> int:
    """What samples may take while a model is pruned, and what layers read of them: more of them tell layers more."""
    memory = None if machine is None else machine.resources.memory_bytes
    return int(min(max(_SHARE_HELD * (memory or 0), _HELD_AT_LEAST), _HELD_AT_MOST))


def multiply_adds(graph: Graph) -> float:
    """Of convolutions and products of known weights, for one sample."""
    total = 0.0
    for node in graph.gs.nodes:
        weights = constant(node.inputs[1]) if is_operator(node, "Conv", "ConvTranspose", "Gemm", "MatMul") else None
        if weights is not None:
            places = (node.inputs if node.op == "ConvTranspose" else node.outputs)[0].shape
            # How many numbers each weight meets: of a convolution all places, of a product all rows.
            met = places[0] * math.prod(places[2:]) if node.op in ("Conv", "ConvTranspose") else math.prod(places[:-1])
            total += float(met) * np.size(weights)
    return total


def _least_squares(why: str) -> Choice:
    return Choice(0, 0, 0, 0, f"least squares, as {why}")


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None
