"""Gathers, scatters and running sums against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest


def sample(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("known", [[], [1]])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [2, [0, 2, -1], [[1, 0], [2, 2]], [0, 1, 2], [2, 0], [-1]])
def test_gather(compare, rng, indices, axis, known):
    compare("Gather", sample(rng, 3, 4, 5), np.array(indices, np.int64), constants=known, axis=axis)


def test_gather_of_narrow_indices(compare, rng):
    compare("Gather", np.arange(20).reshape(4, 5), rng.integers(-5, 5, (3,), np.int32), axis=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(compare, rng, axis):
    compare("GatherElements", sample(rng, 4, 4, 4), rng.integers(-4, 4, (2, 3, 4)), axis=axis)


@pytest.mark.parametrize(
    ("shape", "indices", "batch"),
    [((3, 4, 5), (6, 2), 0), ((3, 4, 5), (2, 6, 3), 0), ((2, 4, 5), (2, 3, 1), 1), ((2, 3, 4, 5), (2, 3, 2), 2)],
)
def test_gather_nd(compare, rng, shape, indices, batch):
    bounds = np.array(shape[batch : batch + indices[-1]])
    compare("GatherND", sample(rng, *shape), rng.integers(-bounds, bounds, indices), batch_dims=batch)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(compare, axis):
    values = np.array([-1.0, 2.0], np.float32)
    compare("OneHot", np.array([[0, 2], [-1, 7]]), np.array(4), values, constants=[1], axis=axis)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_cumulative_sum(compare, rng, axis, exclusive, reverse):
    compare(
        "CumSum", sample(rng, 5, 9), np.array(axis), constants=[1], exclusive=exclusive, reverse=reverse, tolerance=1e-5
    )


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_elements(compare, rng, reduction, axis):
    unique = np.stack([rng.permutation(5)[:3] for _ in range(4)]) - 2
    indices = unique if reduction == "none" else rng.integers(-4, 4, (4, 3))
    if axis == 0:
        indices = np.stack([rng.permutation(6)[:4] for _ in range(3)]).T if reduction == "none" else indices
    compare("ScatterElements", sample(rng, 6, 5), indices, sample(rng, 4, 3), axis=axis, reduction=reduction)


def test_the_last_update_wins(compare):
    x, updates = np.zeros((1, 4), np.float32), np.array([[1, 2, 3]], np.float32)
    compare("ScatterElements", x, np.array([[1, 1, -1]]), updates, axis=1)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2])
def test_scatter_nd(compare, rng, reduction, depth):
    rows = rng.permutation(4)[:3]
    indices = np.stack([rows, rng.integers(0, 5, 3)], 1)[:, :depth]
    compare("ScatterND", sample(rng, 4, 5, 3), indices, sample(rng, 3, *(5, 3)[depth - 1 :]), reduction=reduction)
