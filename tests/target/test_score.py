"""The score is the weighted mean of ratings on logarithmic scales, of what is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_compile import list_targets, resolve_target
from lepton_compile.target import Accelerator, Resources, Target, score
from lepton_compile.target.score import RESOURCES

SMALL = {
    "extends": "cortex-a53",
    "cpu": {"cores": 2, "frequency": "1 GHz", "l2": "256 KiB"},
    "memory": {"size": "512 MB", "bandwidth": "2.4 GB/s"},
}
SERVER = {
    "extends": "x86-64-v4-vnni",
    "cpu": {"cores": 40, "frequency": "2.3 GHz", "l3": "60 MiB"},
    "memory": {"size": "256 GB", "bandwidth": "150 GB/s"},
    "accelerator": [{"name": "NVIDIA H100", "memory": "80 GB"}],
}


def ratings(target: Target) -> dict[str, float | None]:
    return {rating.resource: rating.value for rating in score(target).ratings}


def test_weights_sum_to_one():
    assert sum(resource.weight for resource in RESOURCES) == pytest.approx(1)


def test_the_two_machines_of_the_scales_are_its_ends():
    assert set(ratings(resolve_target(SMALL)).values()) == {0}
    assert set(ratings(resolve_target(SERVER)).values()) == {1}
    assert score(resolve_target(SMALL)).value == 0
    assert score(resolve_target(SERVER)).value == pytest.approx(1)


def test_what_is_beyond_is_as_good_as_the_ends():
    assert score(resolve_target({**SMALL, "cpu": {"cores": 1, "frequency": "1 MHz", "l2": "1 B"}})).value == 0
    giant = resolve_target({**SERVER, "cpu": {"cores": 4096, "frequency": "9 GHz", "l3": "9 GB"}})
    assert score(giant).value == pytest.approx(1)


def test_a_board_is_rated_by_hand():
    found = score(resolve_target("raspberry-pi-4"))
    # Four cores at 1.5 GHz with four lanes: log(24 / 8) / log(1472 / 8), and so on.
    expected = {
        "arithmetic": (0.35, 0.2107, "24 G multiply-adds/s"),
        "bandwidth": (0.25, 0.1676, "4.8 GB/s"),
        "memory": (0.15, 0.3308, "4 GB"),
        "narrow arithmetic": (0.10, 0.0, "1 times float32's"),
        "last-level cache": (0.10, 0.2529, "1 MiB"),
        "accelerator": (0.05, 0.0, "none"),
    }
    assert [rating.resource for rating in found.ratings] == list(expected)
    for rating in found.ratings:
        weight, value, figure = expected[rating.resource]
        assert (rating.weight, rating.figure) == (weight, figure)
        assert rating.value == pytest.approx(value, abs=1e-4)
    assert found.value == pytest.approx(sum(weight * value for weight, value, _ in expected.values()), abs=1e-4)


def test_what_is_not_known_leaves_its_weight_to_the_others():
    target = resolve_target("x86-64-v4-vnni")
    found = score(target)
    values = {rating.resource: rating.value for rating in found.ratings}
    assert (values["memory"], values["bandwidth"]) == (None, None)
    known = 0.35 * values["arithmetic"] + 0.1 * values["narrow arithmetic"] + 0.1 * values["last-level cache"]
    assert found.value == pytest.approx(known / 0.6)
    assert ratings(replace(target, resources=Resources(1, 1)))["arithmetic"] is None


def test_instructions_count():
    def one(architecture: str, cpu: str, *features: str) -> dict[str, float | None]:
        resources = Resources(16, 16, frequency_hz=10**9)
        return ratings(Target("one", f"{architecture}-linux-gnu", cpu, resources, features))

    scalar = one("riscv64", "generic-rv64", "+a", "+c", "+d", "+f", "+m")["arithmetic"]
    sse, avx2, avx512 = (one("x86_64", f"x86-64-v{level}")["arithmetic"] for level in (2, 3, 4))
    neon = one("aarch64", "generic")["arithmetic"]
    double = sse - scalar  # two lanes for one: four, but for the multiply-add in two instructions
    assert double > 0.1
    assert [neon, avx2, avx512] == pytest.approx([sse + double, sse + 2 * double, sse + 3 * double])
    assert one("aarch64", "generic", "+dotprod")["narrow arithmetic"] == 1
    assert one("x86_64", "x86-64-v4", "+avx512bf16")["narrow arithmetic"] == pytest.approx(0.5)
    assert one("x86_64", "x86-64-v4")["narrow arithmetic"] == 0


@pytest.mark.parametrize(
    ("accelerators", "value", "figure"),
    [
        ((), 0, "none"),
        ((Accelerator("brcm,2711-v3d"),), None, "not known"),
        ((Accelerator("a", 10**9), Accelerator("b"), Accelerator("c", 80 * 10**9)), 1, "80 GB"),
        ((Accelerator("tiny", 10**6),), 0, "1 MB"),
    ],
)
def test_the_largest_accelerator_counts(accelerators, value, figure):
    target = Target("t", "x86_64-linux-gnu", "x86-64-v3", Resources(1, 1, accelerators=accelerators))
    rating = next(rating for rating in score(target).ratings if rating.resource == "accelerator")
    assert (rating.value, rating.figure) == (value, figure)


@given(st.integers(1, 4096), st.integers(1, 2**40), st.integers(1, 2**50), st.integers(1, 2**50), st.integers(0, 2**40))
def test_more_is_never_worth_less(cores, frequency, memory, bandwidth, cache):
    resources = Resources(
        cores, cores, l3_bytes=cache, frequency_hz=frequency, memory_bytes=memory, bandwidth_bytes_per_s=bandwidth
    )
    value = score(Target("t", "x86_64-linux-gnu", "x86-64-v3", resources)).value
    assert 0 <= value <= 1
    for more in (
        {"cores": 2 * cores},
        {"frequency_hz": 2 * frequency},
        {"memory_bytes": 2 * memory},
        {"bandwidth_bytes_per_s": 2 * bandwidth},
        {"l3_bytes": 2 * cache + 2**18},
        {"accelerators": (Accelerator("a", 10**10),)},
    ):
        richer = Target("t", "x86_64-linux-gnu", "x86-64-v3", replace(resources, **more))
        assert score(richer).value >= value


def test_no_target_is_without_a_score():
    for target in list_targets():
        assert 0 <= score(target).value <= 1
