"""Reductions, ArgMax and softmax against onnxruntime and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError

REDUCTIONS = [
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSum", "ReduceLogSumExp"),
]


def positive(rng, shape, dtype="float32"):
    return (rng.random(shape) + 0.5).astype(dtype)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("axes", [[1], [-1], [0, 2], [0, 1, 2, 3], [-2, -1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes(compare, rng, op_type, axes, keepdims):
    compare(
        op_type, positive(rng, (2, 3, 5, 7)), np.array(axes, np.int64), constants=[1], keepdims=keepdims, tolerance=1e-5
    )


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_all_axes_by_default(compare, rng, op_type):
    compare(op_type, positive(rng, (3, 19)), tolerance=1e-5)
    compare(op_type, positive(rng, (3, 19)), np.array([], np.int64), constants=[1], keepdims=0, tolerance=1e-5)


def test_no_axes_may_mean_none(compare, rng):
    x = positive(rng, (3, 4))
    compare("ReduceSum", x, np.array([], np.int64), constants=[1], noop_with_empty_axes=1)
    compare("ReduceMax", x, np.array([], np.int64), constants=[1], noop_with_empty_axes=1)


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers(compare, rng, op_type, dtype):
    if op_type == "ReduceMean" and dtype == "int64":
        pytest.skip("onnxruntime has no kernel")
    compare(op_type, rng.integers(-4, 5, (3, 6), dtype), np.array([1]), constants=[1])


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean", "ReduceMax"])
def test_half(compare, rng, op_type):
    x = positive(rng, (3, 64), "float16")
    function = {"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max}[op_type]
    expected = function(x.astype(np.float32), axis=1, keepdims=True).astype(np.float16)
    compare(op_type, x, np.array([1]), constants=[1], expected=[expected])


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceLogSumExp", "ReduceMean"])
@pytest.mark.parametrize("row", [[-np.inf] * 3, [np.inf, 1, 1], [np.inf] * 3, [-np.inf, 2, 3]])
def test_infinities(compare, op_type, row):
    compare(op_type, np.array([row, [1, 2, 3]], np.float32), np.array([1]), constants=[1])


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean", "ReduceL2", "ReduceProd"])
def test_nan_propagates_through_sums(compare, op_type):
    compare(op_type, np.array([[1, np.nan, 2], [1, 2, 3]], np.float32), np.array([1]), constants=[1])


def test_nan_is_passed_over_by_extrema(compare):
    x = np.array([[1, np.nan, 2], [1, 2, np.nan]], np.float32)
    compare("ReduceMax", x, np.array([1]), constants=[1])
    compare("ReduceMin", x, np.array([1]), constants=[1])


def test_boolean_extrema(compare, rng):
    x = rng.random((5, 4)) < 0.3
    compare("ReduceMax", x, np.array([1]), constants=[1], expected=[x.max(axis=1, keepdims=True)])
    compare("ReduceMin", x, np.array([1]), constants=[1], expected=[x.min(axis=1, keepdims=True)])


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_extremum_with_ties(compare, rng, op_type, axis, keepdims, last):
    x = rng.integers(0, 4, (3, 17, 5)).astype(np.float32)
    compare(op_type, x, axis=axis, keepdims=keepdims, select_last_index=last)


def test_arg_extremum_of_special_rows(compare):
    compare("ArgMax", np.array([[-np.inf] * 3, [np.inf, 1, np.inf], [1, np.nan, 2]], np.float32), axis=1)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 17), -1), ((2, 5, 7), 1), ((4, 3, 2), 0), ((1, 1000), 1)])
def test_softmax(compare, rng, op_type, shape, axis):
    compare(op_type, (rng.standard_normal(shape) * 10).astype(np.float32), axis=axis, tolerance=1e-5)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax_of_special_rows(compare, op_type):
    rows = [[np.nan, 1, 2], [1, np.inf, 2], [-np.inf, 1, 2], [-np.inf] * 3, [1000, 999, 0]]
    compare(op_type, np.array(rows, np.float32), axis=-1)


def test_half_softmax_sums_in_float32(compare, rng):
    x = rng.standard_normal((2, 999)).astype(np.float16)
    e = np.exp(x.astype(np.float32) - x.max(axis=1, keepdims=True).astype(np.float32))
    compare("Softmax", x, axis=1, expected=[(e / e.sum(axis=1, keepdims=True)).astype(np.float16)])


def test_axes_must_be_known(compare, rng):
    with pytest.raises(UnsupportedOperatorError, match="'node': the list of axes must be a constant"):
        compare("ReduceSum", positive(rng, (3, 4)), np.array([1]))
