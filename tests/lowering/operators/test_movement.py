"""Operators that move elements against onnxruntime."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError


def numbers(*shape, dtype="float32"):
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


def constant(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("permutation", [*itertools.permutations(range(3)), None])
def test_transpose(compare, permutation):
    attributes = {} if permutation is None else {"perm": permutation}
    compare("Transpose", numbers(2, 3, 5), **attributes)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("sizes", [(2, 3, 1), (4,), (1, 1), (5, 2, 3, 7)])
def test_concat(compare, rng, axis, sizes):
    shapes = [[size if a == axis % 3 else 4 for a in range(3)] for size in sizes]
    compare("Concat", *(rng.standard_normal(shape).astype(np.float32) for shape in shapes), axis=axis)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (4,), (1,), None),
        ((0, 2), (2, 9), None, None),
        ((-3,), (-1,), (-1,), (1,)),
        ((5, 0), (0, 3), (1, 2), (-2, 2)),
        ((-1,), (-(2**63),), (2,), (-1,)),
        ((0,), (2**63 - 1,), (2,), (3,)),
        ((100,), (-100,), (1,), (-1,)),
    ],
)
def test_slice(compare, starts, ends, axes, steps):
    optional = [None if v is None else constant(*v) for v in (axes, steps)]
    while optional and optional[-1] is None:
        optional.pop()
    compare("Slice", numbers(3, 7, 5), constant(*starts), constant(*ends), *optional, constants=[1, 2, 3, 4])


def test_slice_bounds_must_be_known(compare):
    with pytest.raises(UnsupportedOperatorError, match="starts must be a constant"):
        compare("Slice", numbers(5), constant(1), constant(2))


def test_split(compare):
    compare("Split", numbers(7, 6), constant(1, 4, 2), constants=[1], outputs=3)
    compare("Split", numbers(3, 6), axis=-1, num_outputs=3, outputs=3)
    compare("Split", numbers(3, 7), axis=1, num_outputs=3, outputs=3)


@pytest.mark.parametrize("repeats", [(1, 1, 1), (2, 1, 3), (1, 4, 1)])
def test_tile(compare, repeats):
    compare("Tile", numbers(2, 1, 5), constant(*repeats), constants=[1])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(compare, mode):
    compare("DepthToSpace", numbers(2, 12, 3, 5), blocksize=2, mode=mode)


def test_space_to_depth(compare):
    compare("SpaceToDepth", numbers(2, 3, 4, 6), blocksize=2)


@pytest.mark.parametrize("k", [None, -2, 0, 1, 9])
@pytest.mark.parametrize("upper", [0, 1])
def test_triangle(compare, k, upper):
    compare("Trilu", numbers(2, 4, 6) + 1, *([] if k is None else [np.array(k)]), constants=[1], upper=upper)
    compare("Trilu", numbers(4, 4, dtype="int64") + 1, upper=upper)


def test_reverse_sequence(compare):
    compare("ReverseSequence", numbers(4, 3, 2), constant(2, 4, 1))
    compare("ReverseSequence", numbers(3, 4), constant(2, 4, 1), batch_axis=0, time_axis=1)


@pytest.mark.parametrize("target", [(3, 9), (8, 2), (5, 6), (2, 3)])
def test_center_crop_pad(compare, target):
    compare("CenterCropPad", numbers(5, 6), constant(*target), constants=[1])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize(
    "pads", [(0, 1, 2, 3), (2, 2, 2, 2), (1, 0, 0, 0), (0, 0, 1, 1), (-1, 1, 2, -2), (0, -1, -1, 0)]
)
def test_pad(compare, mode, pads):
    compare("Pad", numbers(4, 5), constant(*pads), constants=[1], mode=mode)


def test_pad_of_named_axes_with_a_value(compare):
    compare(
        "Pad", numbers(3, 4, 5), constant(1, 2, 0, 1), np.array(7.5, np.float32), constant(-1, 0), constants=[1, 2, 3]
    )
    compare("Pad", numbers(3, 4, dtype="int64"), constant(1, 0, 0, 2), np.array(-3), constants=[1, 2])


def test_reflection_may_bounce_more_than_once(compare):
    x = numbers(2, 3)
    compare(
        "Pad", x, constant(0, 5, 0, 4), constants=[1], mode="reflect", expected=[np.pad(x, ((0, 0), (5, 4)), "reflect")]
    )
