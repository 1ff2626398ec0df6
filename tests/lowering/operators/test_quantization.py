"""Linear quantization against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantize_rounds_half_to_even_and_saturates(compare, dtype):
    x = np.array([0, 0.25, 0.75, -0.25, 1.25, 1e6, -1e6, np.inf, -np.inf], np.float32)
    compare("QuantizeLinear", x, np.array(0.5, np.float32), np.array(3, dtype))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis(compare, rng, axis):
    x = (rng.standard_normal((3, 3, 3)) * 9).astype(np.float32)
    scale, zero = np.array([0.1, 0.5, 2.0], np.float32), np.array([1, 128, 3], np.uint8)
    (quantized,) = compare("QuantizeLinear", x, scale, zero, axis=axis)
    compare("DequantizeLinear", quantized, scale, zero, axis=axis)


def test_blocks(compare, rng):
    x, scale = rng.integers(-9, 9, (4, 6), np.int8), (rng.random((4, 3)) + 0.5).astype(np.float32)
    compare("DequantizeLinear", x, scale, axis=1, block_size=2)


def test_without_zero_point(compare, rng):
    compare("QuantizeLinear", rng.random((9,), np.float32) * 50, np.array(0.3, np.float32))
    compare("DequantizeLinear", rng.integers(-99, 99, (9,), np.int32), np.array(0.3, np.float32))


@pytest.mark.parametrize("shift", [-9, 0, 9])
def test_dynamic_quantization(compare, rng, shift):
    compare("DynamicQuantizeLinear", rng.standard_normal((3, 17)).astype(np.float32) + np.float32(shift), outputs=3)


def test_unknown_type_is_refused(compare):
    with pytest.raises(UnsupportedOperatorError, match="the quantized type int64 is not supported"):
        compare("DequantizeLinear", np.zeros(3, np.int64), np.ones((), np.float32))
