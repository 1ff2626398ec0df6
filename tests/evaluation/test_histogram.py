from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_compile.evaluation.histogram import BINS, Histogram

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(
    st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=1, max_side=30), elements=FLOATS), min_size=1, max_size=5)
)
def test_no_number_is_lost_and_the_order_of_parts_does_not_matter(parts):
    forwards, backwards, merged = Histogram(), Histogram(), Histogram()
    for part in parts:
        forwards.add(part)
        single = Histogram()
        single.add(part)
        merged.merge(single)
    for part in reversed(parts):
        backwards.add(part)
    everything = np.concatenate(parts)
    values, counts = forwards.bins()
    assert counts.sum() == forwards.count == everything.size
    assert (forwards.lowest, forwards.highest) == (everything.min(), everything.max())
    for other in (backwards, merged):
        assert np.array_equal(other.bins()[0], values) and np.array_equal(other.bins()[1], counts)


def test_bins_are_fine_enough_to_tell_the_mean_and_the_extremes():
    numbers = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    histogram = Histogram()
    for part in np.array_split(numbers, 7):
        histogram.add(part)
    values, counts = histogram.bins()
    assert BINS / 4 < len(values) <= BINS
    assert counts @ values / counts.sum() == pytest.approx(numbers.mean(), abs=1e-3)
    assert values[0] >= histogram.lowest and values[-1] <= histogram.highest
