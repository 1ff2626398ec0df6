"""Normalisations and global pooling against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError


def sample(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (3, 5), (1, 5, 9)])
def test_batch_normalization(compare, rng, shape):
    parameters = [sample(rng, 5) for _ in range(3)]
    compare("BatchNormalization", sample(rng, *shape), *parameters, np.abs(sample(rng, 5)), epsilon=1e-3)


def test_training_is_refused(compare, rng):
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        compare("BatchNormalization", sample(rng, 1, 2, 3), *[sample(rng, 2)] * 4, training_mode=1)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 5, 9)])
def test_instance_normalization(compare, rng, shape):
    compare("InstanceNormalization", sample(rng, *shape), sample(rng, 5), sample(rng, 5), tolerance=1e-5)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(compare, rng, axis, bias):
    x = sample(rng, 3, 4, 17) * 3 + 2
    shape = x.shape[axis:]
    arguments = [sample(rng, *shape), sample(rng, *shape) if bias else None]
    compare("LayerNormalization", x, *arguments, axis=axis, outputs=3, tolerance=1e-5)


def test_rms_normalization(compare, rng):
    x, scale = sample(rng, 3, 4, 9), sample(rng, 9)
    expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale
    compare("RMSNormalization", x, scale, expected=[expected])


def test_mean_variance_normalization(compare, rng):
    compare("MeanVarianceNormalization", sample(rng, 2, 3, 5, 7), tolerance=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(compare, rng, p):
    x = sample(rng, 3, 5, 7)
    x[1, :, 2] = 0
    compare("LpNormalization", x, axis=1, p=p)


@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (3, 0.5), (7, 1.0), (5, 0.6), (9, 0.75)])
def test_lrn(compare, rng, size, beta):
    compare("LRN", sample(rng, 2, 7, 3, 5) * 5, size=size, alpha=0.02, beta=beta, bias=1.5)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (1, 3, 13), (1, 2, 3, 4, 5)])
def test_global_pooling(compare, rng, op_type, shape):
    compare(op_type, sample(rng, *shape), tolerance=1e-5)


def test_global_lp_pooling_of_another_p(compare, rng):
    compare("GlobalLpPool", sample(rng, 2, 3, 4, 5), p=3, tolerance=1e-5)
