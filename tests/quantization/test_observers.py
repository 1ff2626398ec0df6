from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.evaluation.histogram import Histogram
from lepton_compile.quantization.observers import candidate_ranges, parameters, quantized


def counted(values):
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def test_zero_is_an_integer_and_the_ends_are_within_the_range():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        scale, zero = parameters(low, high)
        assert 0 <= zero <= 255 and scale > 0
        assert quantized(np.zeros(1), scale, zero)[0] == 0
        ends = np.array([low, high])
        assert np.abs(quantized(ends, scale, zero) - ends).max() <= scale


def test_the_first_range_loses_least_and_losses_are_what_they_say():
    values = np.random.default_rng(0).standard_normal(50_000)
    ranges = candidate_ranges(counted(values))
    assert [each.loss for each in ranges] == sorted(each.loss for each in ranges)
    for each in ranges:
        error = quantized(values, each.scale, each.zero) - values
        assert each.loss == pytest.approx((error**2).sum() / (values**2).sum(), rel=0.05)


def test_a_few_outliers_are_clipped():
    values = np.random.default_rng(0).random(50_000)
    values[:2] = 30.0
    ranges = {each.observer: each for each in candidate_ranges(counted(values))}
    assert ranges["minmax"].scale == pytest.approx(30 / 255, rel=1e-3)
    assert min(each.scale for each in ranges.values()) < 2 / 255


def test_a_rectified_tensor_has_its_zero_at_the_lowest_integer():
    values = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0)
    assert all(each.zero == 0 for each in candidate_ranges(counted(values)))
