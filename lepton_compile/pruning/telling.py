"""Weights as text, so that a plan can be followed again without the samples that they were fitted to.

They are 16-bit integers with a scale for each index of the first axis: as good as exact beside what pruning loses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.rewriting.packing import packed, unpacked

Array = npt.NDArray[Any]

_LARGEST = 32767


def rounded(weights: Array) -> npt.NDArray[np.float32]:
    """The weights that `told` tells."""
    return _restored(*_integers(weights), weights.shape)


def told(weights: Array) -> str:
    """Weights that `rounded` gave, as text."""
    integers, scales = _integers(weights)
    return packed(scales.tobytes() + integers.tobytes())


def followed(text: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """The weights that `told` was given.

    Raises:
        ValueError: The text is none, or one for weights of another shape.
    """
    content = unpacked(text, "weights")
    if len(content) != 4 * shape[0] + 2 * math.prod(shape):
        raise ValueError(f"the text is of other weights than these of shape {tuple(shape)}")
    scales = np.frombuffer(content, np.float32, shape[0])
    return _restored(np.frombuffer(content, np.int16, offset=4 * shape[0]).reshape(shape[0], -1), scales, shape)


def _integers(weights: Array) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    rows = weights.reshape(weights.shape[0], -1)
    # A power of two, so that what is restored is exact and is rounded to itself.
    peaks = np.maximum(np.abs(rows).max(axis=1), np.finfo(np.float32).tiny)
    scales = np.exp2(np.ceil(np.log2(peaks / _LARGEST))).astype(np.float32)
    return np.rint(rows / scales[:, None]).astype(np.int16), scales


def _restored(integers: Array, scales: Array, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    return (integers * scales[:, None]).astype(np.float32).reshape(shape)
