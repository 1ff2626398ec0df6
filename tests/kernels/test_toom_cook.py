"""Minimal filters: the algebra is exact, and float32 loses little."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lepton_compile.kernels.toom_cook import PAIRS, Filter, minimal_filter

FILTERS = [(m, r) for count in PAIRS for r in range(2, count) for m in (count - r + 1,)]


def apply(matrix: tuple[tuple[Fraction, ...], ...], values: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, values, strict=True)), Fraction(0)) for row in matrix]


def filtered(transform: Filter, inputs: list[Fraction], taps: list[Fraction]) -> list[Fraction]:
    products = [a * b for a, b in zip(apply(transform.analysis, inputs), apply(transform.kernel, taps), strict=True)]
    return apply(transform.synthesis, products)


@pytest.mark.parametrize(("outputs", "taps"), FILTERS)
def test_a_minimal_filter_is_the_filter(outputs: int, taps: int) -> None:
    transform = minimal_filter(outputs, taps)
    assert transform.points == outputs + taps - 1
    rng = np.random.default_rng(0)
    inputs = [Fraction(int(v)) for v in rng.integers(-9, 10, transform.points)]
    weights = [Fraction(int(v)) for v in rng.integers(-9, 10, taps)]
    expected = [sum(weights[j] * inputs[i + j] for j in range(taps)) for i in range(outputs)]
    assert filtered(transform, inputs, weights) == expected


def test_an_axis_without_taps_is_left_as_it_is() -> None:
    transform = minimal_filter(1, 1)
    assert filtered(transform, [Fraction(3)], [Fraction(5)]) == [Fraction(15)]


@pytest.mark.parametrize(("outputs", "taps"), FILTERS)
def test_the_points_of_a_pair_differ_in_the_sign_of_their_odd_part(outputs: int, taps: int) -> None:
    """What `Vectors` relies on: a row's even part alone and its odd part alone have the pair's points between them."""
    transform = minimal_filter(outputs, taps)
    for first in range(1, transform.points - 1, 2):
        plus, minus = transform.analysis[first], transform.analysis[first + 1]
        assert any(a == b != 0 for a, b in zip(plus, minus, strict=True))
        assert all(a in (b, -b) for a, b in zip(plus, minus, strict=True))
        for power, row in enumerate(transform.synthesis):
            assert row[first] == (-1) ** power * row[first + 1]


@pytest.mark.parametrize(("outputs", "taps", "bound"), [(2, 3, 5e-7), (4, 3, 2e-6), (2, 5, 2e-6), (4, 5, 6e-6)])
def test_float32_loses_little(outputs: int, taps: int, bound: float) -> None:
    """Two axes, 128 channels, inputs that are positive as behind a ReLU."""
    transform = minimal_filter(outputs, taps)
    analysis, kernel, synthesis = (
        np.array([[float(v) for v in row] for row in matrix])
        for matrix in (transform.analysis, transform.kernel, transform.synthesis)
    )
    rng = np.random.default_rng(0)
    size = transform.points
    image = np.maximum(rng.standard_normal((32, 128, size, size)), 0).astype(np.float32)
    weights = rng.standard_normal((16, 128, taps, taps), dtype=np.float32)
    u = np.einsum("ai,ocij,bj->ocab", kernel, weights, kernel).astype(np.float32)
    v = np.einsum("ai,tcij,bj->tcab", analysis.astype(np.float32), image, analysis.astype(np.float32))
    m = np.einsum("tcab,ocab->toab", v, u)
    y = np.einsum("ia,toab,jb->toij", synthesis.astype(np.float32), m, synthesis.astype(np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (taps, taps), axis=(2, 3))
    exact = np.einsum("tcijab,ocab->toij", windows, weights.astype(np.float64))
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact) < bound
