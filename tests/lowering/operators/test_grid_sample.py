"""GridSample against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_images(compare, rng, mode, padding, aligned):
    x = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    grid = rng.uniform(-1.7, 1.7, (2, 4, 3, 2)).astype(np.float32)
    compare("GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=aligned, tolerance=1e-4)


def test_volumes(compare, rng):
    x = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    compare("GridSample", x, rng.uniform(-1.2, 1.2, (1, 2, 3, 2, 3)).astype(np.float32), mode="linear", tolerance=1e-4)
