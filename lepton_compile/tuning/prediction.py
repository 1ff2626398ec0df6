"""What the steps of a program take by the model of costs, for machines that nothing can be measured on.

A step takes the longer of two times (`lepton_compile.measuring.roofline`): its multiply-adds at the rate of one core,
those of lanes that hold nothing too, and its bytes at the bandwidth of the caches, or of memory where they do not hold
the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lepton_compile.codegen.steps import describe_steps
from lepton_compile.lowering import Program
from lepton_compile.measuring.roofline import Roofline

if TYPE_CHECKING:
    from lepton_compile.target import Target

# Bytes that a core moves in a cycle, from caches.
_BYTES_A_CYCLE = 16
# Where the target does not say.
_FREQUENCY = 2e9
# Products that one instruction adds where another adds one of floats, by what families of kernels are called.
_PRODUCTS = {"integer": 4, "bfloat16": 2}


def predicted_seconds(program: Program, target: Target) -> Mapping[str, float]:
    """Seconds of each step on one thread, by the names of its nodes, a line each."""
    resources = target.resources
    frequency = resources.frequency_hz or _FREQUENCY
    peak = 2 * resources.multiply_adds * target.vector_bytes // 4 * frequency / (1 if target.has_fma else 2)
    bandwidths = {0: float(_BYTES_A_CYCLE * frequency)}
    if resources.bandwidth_bytes_per_s is not None:
        bandwidths[max(resources.l2_bytes, resources.l3_bytes)] = float(
            min(resources.bandwidth_bytes_per_s, bandwidths[0])
        )
    seconds: dict[str, float] = {}
    for step in describe_steps(program):
        roofline = Roofline(_PRODUCTS.get(step["family"].partition(" ")[0], 1) * peak, bandwidths)
        label = "\n".join(step["nodes"])
        computed = {**step, "operations": step["operations"] / program.kernels[step["kernel"]].filled}
        # The clock may not have moved during the shortest.
        seconds[label] = seconds.get(label, 0.0) + max(roofline.bound(computed, program.peak_bytes), 1e-9)
    return seconds
