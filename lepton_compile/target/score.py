"""How much a target has to compute with, as one number from 0 to 1: R_i = sum over j of w_j R_ij.

R_ij rates what target i has of resource j. It lies on a logarithmic scale, since twice as much is worth the same
anywhere: 0 is what a small device has, 1 what a server has, and what is beyond is as good as that. The weights w_j sum
to 1. A resource that is not known leaves its weight to the others.

The small device is TI's AM6442: two Cortex-A53 at 1 GHz, 256 KiB of level-2 cache, 16 bits of DDR4-1600 (data sheet
SPRSP56), of whose 3.2 GB/s STREAM's triad gets 2.4 (application note SPRACV1B); with 512 MB of it. The server is one
Xeon Platinum 8380: 40 cores at 2.3 GHz, AVX-512 with VNNI, 60 MiB of level-3 cache, eight channels of DDR4-3200
(Intel's product specifications), of whose 204.8 GB/s the same share is 150; with 256 GB of it, and an accelerator of
80 GB, as NVIDIA's H100 has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lepton_compile.target.quantities import format_quantity
from lepton_compile.target.target import Target


@dataclass(frozen=True)
class Rating:
    """What a target has of one resource.

    Attributes:
        resource: What is rated.
        weight: w_j, what the rating counts where all resources are known.
        value: R_ij, from 0 to 1; None where it is not known.
        figure: The amount that was rated, for people.
    """

    resource: str
    weight: float
    value: float | None
    figure: str


@dataclass(frozen=True)
class Score:
    """How much a target has to compute with.

    Attributes:
        value: R_i, from 0, a small device, to 1, a server.
        ratings: What it is the weighted mean of.
    """

    value: float
    ratings: tuple[Rating, ...]


def score(target: Target) -> Score:
    """The weighted score of a target's resources.

    Raises:
        TargetError: LLVM knows no such processor or feature.
        BuildError: LLVM could not be asked, and `Target.takes_llvm`.
    """
    ratings = tuple(_rate(resource, target) for resource in RESOURCES)
    known = [(rating.weight, rating.value) for rating in ratings if rating.value is not None]
    return Score(sum(weight * value for weight, value in known) / sum(weight for weight, _ in known), ratings)


def _arithmetic(target: Target) -> float | None:
    """Multiply-adds of float32 in a second: a vector of them a cycle and core, and half of one without FMA."""
    resources = target.resources
    if resources.frequency_hz is None:
        return None
    lanes = 1 if target.instruction_set == "scalar" else target.vector_bytes // 4
    return resources.cores * resources.frequency_hz * lanes / (1 if target.has_fma else 2)


def _narrow_arithmetic(target: Target) -> float:
    """How many times as many multiply-adds of narrower numbers an instruction makes as of float32."""
    return 4 if target.has_dot_products else 2 if target.has_bfloat16_dot_products else 1


def _memory(target: Target) -> float | None:
    return target.resources.memory_bytes


def _bandwidth(target: Target) -> float | None:
    return target.resources.bandwidth_bytes_per_s


def _cache(target: Target) -> float:
    """One cache of the last level."""
    return target.resources.l3_bytes or target.resources.l2_bytes


def _accelerator(target: Target) -> float | None:
    """Memory of the largest accelerator; 0 where there is none, not known where none has memory of its own."""
    accelerators = target.resources.accelerators
    return max((each.memory_bytes for each in accelerators if each.memory_bytes), default=None if accelerators else 0)


@dataclass(frozen=True)
class _Resource:
    """A resource: the amount of it that a target has, and what that is worth.

    Attributes:
        name: What it is called.
        weight: w_j.
        low: What the small device has, rated 0.
        high: What the server has, rated 1.
        amount: Of a target; None where it is not known.
        text: An amount for people.
    """

    name: str
    weight: float
    low: float
    high: float
    amount: Callable[[Target], float | None]
    text: Callable[[float], str]


def _rate(resource: _Resource, target: Target) -> Rating:
    amount = resource.amount(target)
    if amount is None:
        return Rating(resource.name, resource.weight, None, "not known")
    within = min(max(amount, resource.low), resource.high)
    value = math.log(within / resource.low) / math.log(resource.high / resource.low)
    return Rating(resource.name, resource.weight, value, resource.text(amount) if amount else "none")


def _quantity(kind: str) -> Callable[[float], str]:
    return lambda amount: format_quantity(int(float(f"{amount:.3g}")), kind)


# Time goes by arithmetic in convolutions and matrix products, most of nearly every model, and by bandwidth in all else:
# element-wise operators, and what reads each of its weights for a result or two. Memory says what fits; more of it
# makes nothing faster. Narrower numbers multiply the arithmetic, but in those layers alone whose accuracy allows it.
# The last-level cache spares bandwidth. No code is made for accelerators yet.
RESOURCES = (
    _Resource("arithmetic", 0.35, 8e9, 1.472e12, _arithmetic, lambda amount: f"{amount / 1e9:.4g} G multiply-adds/s"),
    _Resource("bandwidth", 0.25, 2.4e9, 150e9, _bandwidth, _quantity("bytes per second")),
    _Resource("memory", 0.15, 512e6, 256e9, _memory, _quantity("bytes")),
    _Resource("narrow arithmetic", 0.10, 1, 4, _narrow_arithmetic, lambda amount: f"{amount:g} times float32's"),
    _Resource("last-level cache", 0.10, 256 * 2**10, 60 * 2**20, _cache, lambda size: format_quantity(size, "bytes")),
    _Resource("accelerator", 0.05, 512e6, 80e9, _accelerator, _quantity("bytes")),
)
"""Every resource, its weight, and the ends of its scale."""
