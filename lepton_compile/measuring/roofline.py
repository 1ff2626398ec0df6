"""What a machine can do at best: multiply-adds in registers, and reads from memory and caches of every size.

Both are measured by small kernels that are built for the target and run here as any model is. A step of a model can
take no less than the longer of two times (Williams, Waterman and Patterson, "Roofline", 2009): its operations at the
peak, and its bytes at the bandwidth of where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compile.runtime.loader import CompiledModel

if TYPE_CHECKING:
    from lepton_compile.target import Target

# How much is read over and over: about what the levels of caches hold, and more than any.
READ_BYTES = (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 27)
READ_TOTAL = 1 << 27  # bytes that one step reads in all
RUNS = 30
BLOCKS_A_THREAD = 8


@dataclass(frozen=True)
class Roofline:
    """What a machine does at best on a number of threads.

    Attributes:
        peak: float32 operations in a second, a multiply-add counting as two.
        bandwidths: Bytes in a second that are read again and again, by how many they are.
    """

    peak: float
    bandwidths: Mapping[int, float]

    def bandwidth(self, size: int) -> float:
        """The bandwidth of data of this size: that of the largest that was measured and is not larger."""
        return self.bandwidths[max((known for known in self.bandwidths if known <= size), default=min(self.bandwidths))]

    def bound(self, step: Mapping[str, Any], footprint: int) -> float:
        """Seconds that a step takes at least.

        What it computes from was written a moment ago, so it comes from where that much fits. The weights come round
        once in a run, so they come from where the whole model fits.

        Args:
            step: As steps.json describes it.
            footprint: Bytes of the whole model, weights and working memory.
        """
        operands = [*step["inputs"], *step["outputs"]]
        weights = sum(operand["moved_bytes"] or 0 for operand in operands if operand["storage"] == "weight")
        others = sum(operand["moved_bytes"] or 0 for operand in operands) - weights
        moving = others / self.bandwidth(others) + weights / self.bandwidth(footprint)
        return float(max(step["operations"] / self.peak, moving))


def footprint(model: CompiledModel) -> int:
    """Bytes that a model touches in a run: weights and working memory."""
    memory = model.manifest["memory"]
    return int(memory["weights_bytes"]) + int(memory["arena_bytes"])


def measure_roofline(target: Target, threads: int) -> Roofline:
    """Measure this machine.

    Args:
        target: What the kernels are built for; this machine must be able to run it.
        threads: Threads to run on.

    Raises:
        TargetError: This machine can not run code for the target.
        BuildError: The kernels could not be built.
    """
    from lepton_compile.codegen import generate
    from lepton_compile.measuring.extremes import Reading, extremes

    reads = [Reading(_floats(size, threads), _passes(size, threads)) for size in READ_BYTES]
    library = generate(extremes(target.vector_bytes // 4, BLOCKS_A_THREAD * threads, reads), target)
    model = CompiledModel(library.folder, threads=threads, keep=library)
    # Pages that nobody has written to would all be one page of zeros.
    inputs = {
        "factors": np.array([0.5, 1.0], np.float32),
        "data": np.ones(_floats(READ_BYTES[-1], threads), np.float32),
    }
    profile = model.profile(inputs, runs=RUNS)
    # The machine at its best: the fastest run, not one that another program disturbed.
    seconds = profile.step_seconds.min(axis=0).tolist()
    bandwidths = [4 * read.floats * read.passes / taken for read, taken in zip(reads, seconds[1:], strict=True)]
    return Roofline(profile.steps[0]["operations"] / seconds[0], dict(zip(READ_BYTES, bandwidths, strict=True)))


def _floats(size: int, threads: int) -> int:
    """How many floats each thread reads again and again, so that all of them together read `size` bytes."""
    return size // 4 // threads


def _passes(size: int, threads: int) -> int:
    """How often each size is read, by all threads together."""
    return max(BLOCKS_A_THREAD * threads, READ_TOTAL // size * threads)
