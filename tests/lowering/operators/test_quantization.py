"""Linear quantization against onnxruntime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

import lepton_compile
from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.target import resolve_target


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantize_rounds_half_to_even_and_saturates(compare, dtype):
    x = np.array([0, 0.25, 0.75, -0.25, 1.25, 1e6, -1e6, np.inf, -np.inf, np.nan], np.float32)
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


def test_floats_of_eight_bits_are_refused(compare):
    with pytest.raises(UnsupportedOperatorError, match="the quantized type float8_e4m3fn is not supported"):
        compare("DequantizeLinear", np.zeros(3, ml_dtypes.float8_e4m3fn), np.ones((), np.float32))


@pytest.mark.parametrize("name", ["host", "x86-64-v2"])
def test_halves_are_rounded_as_a_division_rounds_them(name):
    """Halves between two integers, times a scale, and their neighbours: where the last bit of the quotient decides."""
    target = resolve_target(name)
    if not target.is_host_compatible():
        pytest.skip(f"this machine runs no code for {name}")
    rng = np.random.default_rng(0)
    for scale in np.array([55.92424, 0.011866281, 1.0, 0.0017765528, 2.3e-20, 7.1e22], np.float32):
        halves = ((rng.integers(-300, 300, 2000) + 0.5) * np.float64(scale)).astype(np.float32)
        x = np.concatenate(
            [halves, np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf))]
        )
        expected = np.clip(np.rint(x / scale) + 71, 0, 255).astype(np.uint8)
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
                "net",
                [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
                [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, x.shape)],
                [
                    onnx.numpy_helper.from_array(np.asarray(scale), "scale"),
                    onnx.numpy_helper.from_array(np.array(71, np.uint8), "zero"),
                ],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 21)],
            ir_version=10,
        )
        assert np.array_equal(lepton_compile.compile(model, target, tuning="model").run({"x": x})["y"], expected)
