"""Activations against onnxruntime, with NaN and the infinities."""

from __future__ import annotations

import numpy as np
import pytest

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 30.0, -30.0, 1e-8, -1e-8], np.float32)


def sample(rng, shape=(3, 5, 7), scale=3.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


CASES = [
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("ThresholdedRelu", {"alpha": 0.7}),
    ("Elu", {"alpha": 1.3}),
    ("Selu", {}),
    ("Selu", {"alpha": 1.1, "gamma": 1.2}),
    ("Celu", {"alpha": 0.7}),
    ("Sigmoid", {}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Mish", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Shrink", {"bias": 0.3, "lambd": 0.4}),
]


@pytest.mark.parametrize(("op_type", "attributes"), CASES)
def test_random(compare, rng, op_type, attributes):
    compare(op_type, sample(rng), **attributes)


@pytest.mark.parametrize(("op_type", "attributes"), CASES)
def test_special_values(compare, op_type, attributes):
    compare(op_type, SPECIAL, **attributes)


@pytest.mark.parametrize(
    ("op_type", "dtype"),
    [
        ("Relu", "float16"),
        ("Relu", "float64"),
        ("Sigmoid", "float16"),
        ("Sigmoid", "float64"),
        ("Tanh", "float16"),
        ("Tanh", "float64"),
    ],
)
def test_other_types(compare, rng, op_type, dtype):
    compare(op_type, sample(rng).astype(dtype))


@pytest.mark.parametrize("slope", [(1,), (5, 1), (5, 7), (3, 5, 7)])
def test_prelu_broadcasts_its_slope(compare, rng, slope):
    compare("PRelu", sample(rng), sample(rng, slope))


def test_prelu_special_values(compare):
    compare("PRelu", SPECIAL, np.full(1, 0.25, np.float32))


def test_swish_is_x_times_sigmoid(compare, rng):
    x = sample(rng)
    compare("Swish", x, expected=[x / (1 + np.exp(-1.5 * x))], alpha=1.5)
