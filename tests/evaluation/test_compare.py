"""Answers are compared per tensor and per channel, and what is wrong is said in one line."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lepton_compile.evaluation.compare import compare_outputs, relative_error

RANDOM = np.random.default_rng(0)


def compare(actual, expected, **tolerances):
    return compare_outputs({"y": np.asarray(actual)}, {"y": np.asarray(expected)}, **tolerances)


def test_equal_outputs_agree():
    value = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
    assert compare(value, value.copy()) == []
    assert compare(value[:0], value[:0]) == []
    assert compare(np.float32(2), np.float32(2)) == []


@given(st.floats(1e-6, 1e-1), st.integers(0, 2**32 - 1))
def test_the_whole_tensor_is_held_to_its_norm(error, seed):
    assume(abs(error / 1e-4 - 1) > 1e-6)
    random = np.random.default_rng(seed)
    expected = random.standard_normal(1000)
    noise = random.standard_normal(1000)
    actual = expected + noise * (error * np.linalg.norm(expected) / np.linalg.norm(noise))
    mismatches = compare(actual, expected)
    assert [m.problem for m in mismatches] == (["tensor"] if error > 1e-4 else [])
    assert all(m.error == pytest.approx(error, rel=1e-6) and m.tolerance == 1e-4 for m in mismatches)


def test_a_small_channel_is_not_hidden_by_a_large_one():
    expected = np.stack([np.full((8, 8), 300.0), np.full((8, 8), 0.03)])[None].astype(np.float32)
    actual = expected.copy()
    actual[0, 1] *= 1.01
    (mismatch,) = compare(actual, expected)
    assert (mismatch.problem, mismatch.channel, mismatch.output) == ("channel", 1, "y")
    assert mismatch.error == pytest.approx(0.01, rel=1e-3)
    assert str(mismatch) == "output 'y' has relative error 1.00e-02 in channel 1, more than 1e-03 (1 of 2 channels)"


def test_channels_lie_on_axis_1_whatever_the_batch():
    expected = np.ones((4, 5, 2), np.float32)
    actual = expected.copy()
    actual[3, 2] = 1.01
    assert [m.channel for m in compare(actual, expected, tolerance=1)] == [2]
    assert compare(actual, expected, tolerance=1, channel_tolerance=0.02) == []


def test_a_single_number_that_cancels_has_no_relative_precision():
    expected = np.array([[3.0, -2.0, 0.001, 0.5]], np.float32)  # the root mean square is 1.82
    close = expected + np.array([[0, 0, 1e-4, 0]], np.float32)
    assert compare(close, expected) == []
    far = expected + np.array([[0, 0, 2e-4, 4e-4]], np.float32)
    assert [m.channel for m in compare(far, expected) if m.problem == "channel"] == [2]
    # More than one number a channel: each channel counts, however small.
    twice = [np.stack([value, value], axis=2) for value in (close, expected)]
    assert [m.channel for m in compare(*twice)] == [2]


def test_zero_must_be_zero():
    assert [m.problem for m in compare(np.full(4, 1e-9), np.zeros(4))] == ["tensor"]
    assert compare(np.zeros(4), np.zeros(4)) == []
    # Below the smallest normal number, values have no precision to compare.
    assert compare(np.full(4, 1e-41, np.float32), np.zeros(4, np.float32)) == []


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_integers_are_equal(dtype):
    expected = np.arange(6, dtype=dtype).reshape(2, 3)
    actual = expected.copy()
    actual[1, 2] += 1
    assert compare(expected.copy(), expected) == []
    (mismatch,) = compare(actual, expected)
    assert mismatch.problem == "values"
    assert str(mismatch) == "output 'y' differs in 1 of 6 elements, first at [1, 2]"


def test_booleans_and_strings_are_equal():
    assert compare([True, False], [True, False]) == []
    assert [m.problem for m in compare([True, False], [True, True])] == ["values"]
    text = np.array(["a", "b"], object)
    assert compare(text, text.copy()) == []
    assert [m.problem for m in compare(text, text[::-1])] == ["values"]


def test_special_values_stand_in_the_same_places():
    expected = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    assert compare(expected.copy(), expected) == []
    for wrong in ([1, 2, np.inf, -np.inf], [1, np.nan, -np.inf, -np.inf], [np.nan, np.nan, np.inf, -np.inf]):
        assert [m.problem for m in compare(np.array(wrong, np.float32), expected)] == ["special values"]
    # The rest is compared as ever.
    assert [m.problem for m in compare(np.array([2, *expected[1:]], np.float32), expected)] == ["tensor"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_held_to_what_they_can_hold(dtype):
    exact = RANDOM.standard_normal((1, 2, 500))
    expected = exact.astype(dtype)
    assert compare(np.nextafter(expected, dtype(10)), expected) == []
    assert [m.problem for m in compare((exact * 1.05).astype(dtype), expected)] == ["tensor", "channel"]


def test_interface_must_be_the_same():
    value = np.ones((2, 3), np.float32)
    assert [m.problem for m in compare(value.astype(np.float64), value)] == ["dtype"]
    assert [str(m) for m in compare(value.T, value)] == ["output 'y' has shape [3, 2] instead of [2, 3]"]
    mismatches = compare_outputs({"b": value}, {"a": value})
    assert [(m.output, m.problem) for m in mismatches] == [("a", "missing"), ("b", "unexpected")]


def test_relative_error():
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_error(np.ones(2), np.zeros(2)) == np.inf
    # Squares of these overflow in float32.
    assert relative_error(np.full(2, 2e30, np.float32), np.full(2, 1e30, np.float32)) == pytest.approx(1.0)
