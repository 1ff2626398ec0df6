"""Shapes, and operators known from shapes alone, against onnxruntime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.lowering.operators.shape import aligned_groups


def numbers(*shape):
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "target", "attributes"),
    [
        ((2, 3, 4), [6, 4], {}),
        ((2, 3, 4), [2, -1], {}),
        ((2, 3, 4), [0, 0, 2, 2], {}),
        ((2, 3, 4), [4, 3, 2], {}),
        ((1, 6, 1), [1, 1, 2, 3], {}),
        ((24,), [2, 3, 4], {"allowzero": 1}),
        ((2, 12), [3, 8], {}),
        ((1,), [], {}),
        ((), [1, 1], {}),
    ],
)
def test_reshape(compare, shape, target, attributes):
    compare("Reshape", numbers(*shape), np.array(target, np.int64), constants=[1], **attributes)


def test_target_shape_must_be_known(compare):
    with pytest.raises(UnsupportedOperatorError, match="'node': the target shape must be a constant"):
        compare("Reshape", numbers(2, 3), np.array([6]))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_groups_multiply_to_the_same(data):
    factors = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=6))
    shuffled = data.draw(st.permutations(factors))
    groups = aligned_groups(factors, shuffled)
    for left, right in groups:
        assert math.prod(factors[a] for a in left) == math.prod(shuffled[a] for a in right)
    assert [a for left, _ in groups for a in left] == [a for a, size in enumerate(factors) if size != 1]
    assert [a for _, right in groups for a in right] == [a for a, size in enumerate(shuffled) if size != 1]


def test_groups_are_the_finest():
    assert aligned_groups((1, 64, 56, 56), (64, 3136)) == [([1], [0]), ([2, 3], [1])]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_flatten(compare, axis):
    compare("Flatten", numbers(2, 3, 4), axis=axis)


def test_squeeze_and_unsqueeze(compare):
    compare("Squeeze", numbers(1, 3, 1, 5), np.array([-2]), constants=[1])
    compare("Squeeze", numbers(1, 3, 1, 5), np.array([0, 2]), constants=[1])
    compare("Squeeze", numbers(1, 3, 1, 5))
    compare("Unsqueeze", numbers(3, 5), np.array([0, -1, 2]), constants=[1])
    compare("Unsqueeze", numbers(), np.array([0]), constants=[1])


@pytest.mark.parametrize(("shape", "target"), [((3, 1), [2, 1, 6]), ((1,), [3, 4]), ((3, 4), [1]), ((5,), [5])])
def test_expand(compare, shape, target):
    compare("Expand", numbers(*shape), np.array(target, np.int64), constants=[1])


def test_shape_and_size(compare):
    compare("Shape", numbers(2, 3, 4, 5))
    compare("Shape", numbers(2, 3, 4, 5), start=1, end=-1)
    compare("Size", numbers(2, 3, 4))


def test_constants(compare):
    compare("Constant", value_floats=[1.5, 2.5, -3.0])
    compare("Constant", value_int=7)
    np.testing.assert_array_equal(
        compare(
            "ConstantOfShape",
            np.array([2, 3]),
            constants=[0],
            expected=[np.full((2, 3), 7, np.int64)],
            value=np.array([7]),
        )[0],
        7,
    )


@pytest.mark.parametrize(
    ("start", "limit", "delta", "dtype"),
    [(0, 5, 1, "int64"), (10, 1, -3, "int32"), (0.5, 3, 0.5, "float32"), (2, 9, 4, "int64")],
)
def test_range(compare, start, limit, delta, dtype):
    compare("Range", *(np.array(value, dtype) for value in (start, limit, delta)), constants=[0, 1, 2])


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_eye_like(compare, k):
    compare("EyeLike", numbers(4, 6), k=k)
    compare("EyeLike", numbers(4, 6), k=k, dtype=6)
