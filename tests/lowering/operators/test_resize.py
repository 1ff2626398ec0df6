"""Resize against onnxruntime in all its modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.lowering.operators.resize import integer_line

SCALES = [(2.0, 2.0), (0.6, 0.7), (1.3, 2.7), (3.0, 1.0)]
TRANSFORMATIONS = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]


def image(rng, *shape):
    return rng.standard_normal(shape or (1, 2, 5, 7)).astype(np.float32)


def scaled(*scales):
    return np.array([1, 1, *scales], np.float32)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(compare, rng, scales, transformation, rounding):
    if transformation == "half_pixel_symmetric" and scales == (0.6, 0.7):
        pytest.skip("coordinates fall on integers, where the last bit of float32 decides")
    compare(
        "Resize", image(rng), None, scaled(*scales), constants=[2],
        mode="nearest", coordinate_transformation_mode=transformation, nearest_mode=rounding,
    )  # fmt: skip


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(compare, rng, scales, transformation, mode):
    compare(
        "Resize", image(rng), None, scaled(*scales), constants=[2],
        mode=mode, coordinate_transformation_mode=transformation, tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(10, 14), (3, 4), (1, 1), (11, 5), (640, 3)])
def test_sizes(compare, rng, mode, sizes):
    compare("Resize", image(rng), None, None, np.array([1, 2, *sizes]), constants=[3], mode=mode, tolerance=2e-5)


def test_cubic_without_the_outside(compare, rng):
    compare(
        "Resize",
        image(rng),
        None,
        scaled(1.7, 0.8),
        constants=[2],
        mode="cubic",
        exclude_outside=1,
        cubic_coeff_a=-0.5,
        tolerance=1e-5,
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("outside", [0, 1])
def test_antialias(compare, rng, mode, outside):
    if mode == "linear" and outside:
        pytest.skip("onnxruntime excludes the outside for cubic interpolation alone")
    compare(
        "Resize",
        image(rng, 1, 1, 9, 11),
        None,
        scaled(0.6, 0.4),
        constants=[2],
        mode=mode,
        antialias=1,
        exclude_outside=outside,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop(compare, rng, mode):
    roi = np.array([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.3], np.float32)
    compare(
        "Resize", image(rng), roi, None, np.array([1, 2, 4, 9]), constants=[1, 3],
        mode=mode, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0, tolerance=1e-5,
    )  # fmt: skip


def test_named_axes_and_aspect(compare, rng):
    for policy in ("stretch", "not_larger", "not_smaller"):
        compare(
            "Resize", image(rng), None, None, np.array([9, 9]), constants=[3],
            mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy, tolerance=1e-5,
        )  # fmt: skip


def test_bytes(compare, rng):
    compare("Resize", rng.integers(0, 255, (1, 1, 4, 6), np.uint8), None, scaled(2, 2), constants=[2], mode="nearest")


def test_scales_must_be_known(compare, rng):
    with pytest.raises(UnsupportedOperatorError, match="the list of scales must be a constant"):
        compare("Resize", image(rng), None, scaled(2, 2))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_line_is_found_for_rational_scales(size, result, offset):
    values = [(2 * i * size + offset * size) // (2 * result) for i in range(result)]
    line = integer_line(values)
    assert line is not None
    a, b, c = line
    assert [(a * i + b) // c for i in range(result)] == values


def test_no_line_through_a_bend():
    assert integer_line([0, 1, 2, 3, 3, 3, 3]) is None
