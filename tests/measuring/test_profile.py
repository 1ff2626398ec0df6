"""What is made of the seconds of steps: medians, shares, families, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.measuring.profile import families, step_times, together
from lepton_compile.measuring.roofline import Roofline
from lepton_compile.runtime.loader import Profile

ROOFLINE = Roofline(peak=1e9, bandwidths={1000: 1e9, 100_000: 1e8})


def operand(moved: int | None, storage: str = "arena", layout: str = "plain") -> dict[str, object]:
    described = {"tensor": "t", "dtype": "float32", "shape": [1, 2], "layout": layout, "storage": storage}
    return described | {"bytes": moved, "moved_bytes": moved}


def step(number: int, family: str, operations: int, *operands: dict[str, object]) -> dict[str, object]:
    return {
        "number": number,
        "kernel": f"{family}_{number}",
        "family": family,
        "nodes": [f"node_{number}"],
        "operations": operations,
        "blocks": 1,
        "choice": {"taken": "tile 2x2", "passed_over": ["tile 3x3: slower"]} if family == "matmul" else None,
        "inputs": list(operands[:-1]),
        "outputs": list(operands[-1:]),
    }


STEPS = (
    step(0, "matmul", 4000, operand(400), operand(2000, "weight"), operand(400, layout="NC...16c")),
    step(1, "copy", 0, operand(400), operand(400)),
    step(2, "matmul", 1000, operand(None), operand(100)),
)
SECONDS = np.array([[8e-6, 2e-6, 1e-6], [4e-5, 2e-6, np.nan], [1e-5, 8e-6, 3e-6]])
PROFILE = Profile(STEPS, SECONDS, SECONDS.sum(axis=1))


def test_a_step_has_its_median_and_its_shares() -> None:
    times = step_times(PROFILE, ROOFLINE, footprint=1_000_000)
    assert [time.seconds for time in times] == pytest.approx([1e-5, 2e-6, 2e-6])
    first = times[0]
    assert (first.label, first.kernel, first.family, first.calls) == ("node_0", "matmul_0", "matmul", 1)
    assert first.shapes == "float32[1,2] -> float32[1,2] NC...16c"
    assert first.moved_bytes == 2800
    assert (first.choice, times[1].choice) == ("tile 2x2; not tile 3x3: slower", "")
    assert first.rate == pytest.approx(4e8)
    assert first.share_of_peak == pytest.approx(0.4)
    # 800 bytes from the smallest cache, and 2000 of weights from memory, take longer than 4000 operations.
    assert first.bound == pytest.approx(800 / 1e9 + 2000 / 1e8)
    assert first.share_of_roofline == pytest.approx(2.08)
    assert times[2].bound == pytest.approx(1e-6)  # by its operations; a size that is not known takes no time


def test_without_the_machine_there_are_no_shares() -> None:
    for time in step_times(PROFILE, None, footprint=0):
        assert time.bound is time.share_of_peak is time.share_of_roofline is None


def test_families_are_added_up_the_longest_first() -> None:
    times = step_times(PROFILE, ROOFLINE, footprint=1_000_000)
    matmul, copy = families(times)
    assert (matmul.label, matmul.calls, matmul.operations) == ("matmul", 2, 5000)
    assert matmul.seconds == pytest.approx(1.2e-5)
    assert matmul.bound == pytest.approx((times[0].bound or 0) + (times[2].bound or 0))
    assert (copy.label, copy.share_of_peak) == ("copy", 0)
    assert together("all", times).seconds == pytest.approx(1.4e-5)


def test_bandwidth_is_that_of_the_next_smaller_size() -> None:
    assert [ROOFLINE.bandwidth(size) for size in (1, 1000, 99_999, 100_000, 10**9)] == [1e9, 1e9, 1e9, 1e8, 1e8]
