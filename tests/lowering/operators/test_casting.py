"""Conversions against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from lepton_compile.errors import UnsupportedOperatorError

TYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("source", ["float32", "float16", "float64", "int64", "int8", "uint8", "bool"])
def test_in_range(compare, rng, source, target):
    low = 0 if target.startswith("u") or source.startswith("u") else -100
    values = rng.uniform(low, 100, (3, 13))
    compare(
        "Cast",
        np.asarray(values > 50 if source == "bool" else values, source),
        to=helper.np_dtype_to_tensor_dtype(np.dtype(target)),
    )


@pytest.mark.parametrize("target", ["uint8", "int8", "int16", "uint16", "uint32"])
def test_out_of_range_wraps_as_onnxruntime(compare, target):
    x = np.array([300, -300, 70000, -1.7, 1.7, 2.5, -0.5], np.float32)
    compare("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def test_special_floats(compare):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, 1e-30], np.float32)
    for target in ("float16", "float64", "bool"):
        compare("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def test_large_unsigned(compare):
    x = np.array([1e19, 2.0**63, 2.0**62, 3.5, 0], np.float32)
    compare("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype("uint64")))


def test_cast_like(compare, rng):
    compare("CastLike", rng.uniform(-9, 9, (5,)).astype(np.float32), np.zeros(1, np.int32))


def test_unknown_type_is_one_clear_line(compare):
    with pytest.raises(UnsupportedOperatorError, match="float8_e4m3fn is not supported"):
        compare("Cast", np.zeros(3, np.float32), expected=[np.zeros(3)], to=helper.TensorProto.FLOAT8E4M3FN)
