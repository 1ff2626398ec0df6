"""Random inputs of a compiled model, for who has no others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.runtime.loader import Tensor

Array = npt.NDArray[Any]


def random_values(tensors: Iterable[Tensor]) -> dict[str, Array]:
    """Values for inputs of which no more is known than type and shape; the same every time.

    Floats are standard normal. Integers are 0 or 1: they may be indices, which must not reach out of anything. Sizes
    that are given with the inputs are 1.
    """
    random = np.random.default_rng(0)
    return {tensor.name: _random_value(tensor, random) for tensor in tensors}


def probe_values(model: Path, tensors: Iterable[Tensor]) -> dict[str, Array]:
    """Values that suit the model that the inputs are of: integers have the range that its nodes tell."""
    from lepton_compile.evaluation.probes import random_inputs
    from lepton_compile.model import import_model

    shapes = {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in tensors}
    return random_inputs(import_model(model, shapes), seed=0)


def _random_value(tensor: Tensor, random: np.random.Generator) -> Array:
    shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
    array = random.standard_normal(shape) if tensor.numpy_dtype.kind == "f" else random.integers(0, 2, shape)
    return array.astype(tensor.numpy_dtype)
