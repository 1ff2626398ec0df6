from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.evaluation.histogram import Histogram
from lepton_compile.quantization.observers import candidate_ranges, parameters, quantized


def counted(values):
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def ends(values, samples=20):
    return [(float(part.min()), float(part.max())) for part in np.array_split(values, samples)]


def test_zero_is_an_integer_and_the_ends_are_within_the_range():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        scale, zero = parameters(low, high)
        assert 0 <= zero <= 255 and scale > 0
        assert quantized(np.zeros(1), scale, zero)[0] == 0
        both = np.array([low, high])
        assert np.abs(quantized(both, scale, zero) - both).max() <= scale


def test_the_first_range_loses_least_and_losses_are_what_they_say():
    values = np.random.default_rng(0).standard_normal(50_000)
    ranges = candidate_ranges(counted(values), ends(values))
    assert [each.loss for each in ranges] == sorted(each.loss for each in ranges)
    for each in ranges:
        error = quantized(values, each.scale, each.zero) - values
        assert each.loss == pytest.approx((error**2).sum() / (values**2).sum(), rel=0.05)


def test_a_few_outliers_are_clipped():
    values = np.random.default_rng(0).random(50_000)
    values[:2] = 30.0
    ranges = {each.observer: each for each in candidate_ranges(counted(values), ends(values))}
    assert ranges["minmax"].scale == pytest.approx(30 / 255, rel=1e-3)
    assert min(each.scale for each in ranges.values()) < 2 / 255


def test_a_rectified_tensor_has_its_zero_at_the_lowest_integer():
    values = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0)
    assert all(each.zero == 0 for each in candidate_ranges(counted(values), ends(values)))


def test_an_extreme_is_what_more_samples_rarely_exceed():
    random = np.random.default_rng(0)
    seen, more = random.standard_normal((60, 1000)), random.standard_normal((600, 1000))
    ranges = {each.observer: each for each in candidate_ranges(counted(seen), [(x.min(), x.max()) for x in seen])}
    lowest, highest = ((end - ranges["extreme"].zero) * ranges["extreme"].scale for end in (0, 255))
    assert (more.max(axis=1) > highest).sum() + (more.min(axis=1) < lowest).sum() <= 2
    assert 1.02 * ranges["minmax"].scale < ranges["extreme"].scale < 1.2 * ranges["minmax"].scale


def test_what_has_a_bound_has_no_extreme_beyond_it():
    values = np.clip(np.random.default_rng(0).standard_normal(50_000) * 4, 0, 6)
    assert max(each.scale for each in candidate_ranges(counted(values), ends(values))) == pytest.approx(6 / 255)
