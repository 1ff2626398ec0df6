"""Rounding weights together: not each to its nearest integer, but so that what one loses others make up for.

Integers Q in place of weights W cost the outputs of a layer that reads x, in mean square, tr((W - Q)' H (W - Q)) with
H = E[x x'], which samples tell. With H = M'M, M triangular, that is for each output the length of M (w - q), whose
components can be made small one after the other, from the last on:

    q_i = round(w_i + sum of M_ij / M_ii (w_j - q_j) over j > i)

This is how Babai finds a near point of a lattice ("On Lovasz' lattice reduction and the nearest lattice point problem",
1986), and rounds as optimal brain quantization does in a fixed order (Frantar and Alistarh, 2022, arXiv:2208.11580;
Frantar et al., 2022, arXiv:2210.17323). The inputs of the largest mean square go first, while many are left to make up
for them.

What is decided is kept as the difference from the nearest integers, so that it can be followed without samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.rewriting.packing import packed, unpacked

Array = npt.NDArray[Any]

# Rows that what is lost before is added up for together, as a product of matrices.
_BLOCK = 64
# What is added to the diagonal of H, as a share of its mean: samples say little of directions that they hardly take.
_DAMPING = 0.1


def rounded_together(
    weights: Array, steps: Array, nearest: Array, largest: int, moments: Array
) -> npt.NDArray[np.int8]:
    """Integers that cost no output more than the nearest ones do.

    Args:
        weights: By groups, inputs and outputs, as `evaluation.covariances.by_inputs` gives them.
        steps: What an integer is worth for each of them.
        nearest: The integers nearest to them.
        largest: The largest integer, in magnitude.
        moments: H of each group.
    """
    order = np.argsort(np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")[:, :, None]
    sorted_moments = np.take_along_axis(np.take_along_axis(moments, order, axis=1), order.swapaxes(1, 2), axis=2)
    factor = _factor(sorted_moments)
    exact = np.take_along_axis(weights, order, axis=1)
    worth = np.take_along_axis(steps, order, axis=1)
    integers, errors = np.empty_like(exact), np.empty_like(exact)
    for end in range(exact.shape[1], 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        before = factor[:, start:end, end:] @ errors[:, end:]
        for row in range(end - 1, start - 1, -1):
            lost = before[:, row - start] + (factor[:, row, None, row + 1 : end] @ errors[:, row + 1 : end])[:, 0]
            wanted = exact[:, row] + lost / factor[:, row, row, None]
            integers[:, row] = np.clip(np.rint(wanted / worth[:, row]), -largest, largest)
            errors[:, row] = exact[:, row] - integers[:, row] * worth[:, row]
    found = np.empty_like(integers)
    np.put_along_axis(found, order, integers, axis=1)
    better = costs(weights - found * steps, moments) < costs(weights - nearest * steps, moments)
    return np.where(better[:, None], found, nearest).astype(np.int8)


def costs(differences: Array, moments: Array) -> Array:
    """What differences of weights cost each output, in mean square; by groups and outputs."""
    return np.asarray((differences * (moments @ differences)).sum(axis=1))


def told(integers: Array, nearest: Array) -> str:
    """How integers differ from the nearest ones, as text: for each a bit that says whether, and then by how much."""
    moved = (integers.astype(np.int8) - nearest.astype(np.int8)).reshape(-1)
    return packed(np.packbits(moved != 0).tobytes() + moved[moved != 0].tobytes())


def followed(nearest: Array, text: str) -> Array:
    """The integers that `told` was given.

    Raises:
        ValueError: The text is no such difference, or one for another number of weights.
    """
    content = np.frombuffer(unpacked(text, "the rounding of weights"), np.uint8)
    flags = -(-nearest.size // 8)
    differs = np.unpackbits(content[:flags]).astype(bool)
    by = content[flags:].view(np.int8)
    if differs[nearest.size :].any() or len(differs) != 8 * flags or differs.sum() != by.size:
        raise ValueError(f"the rounding is of other weights than these {nearest.size}")
    found = nearest.copy()
    found[differs[: nearest.size].reshape(nearest.shape)] += by
    return found


def _factor(moments: Array) -> npt.NDArray[np.float32]:
    """M of each group."""
    damped = moments.astype(np.float64)
    mean = np.diagonal(damped, axis1=1, axis2=2).mean(axis=1)
    every = np.arange(damped.shape[1])
    damped[:, every, every] += np.where(mean > 0, _DAMPING * mean, 1.0)[:, None]
    return np.linalg.cholesky(damped).swapaxes(1, 2).astype(np.float32)
