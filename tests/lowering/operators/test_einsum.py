"""Einsum against numpy."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 2)]),
        ("ij->ji", [(3, 4)]),
        ("ii->i", [(4, 4)]),
        ("ij->", [(3, 4)]),
        ("ij,jk", [(3, 4), (4, 2)]),
        ("i,j,k->ijk", [(2,), (3,), (4,)]),
        (" b i , b i -> b ", [(3, 5), (3, 5)]),
    ],
)
def test_equations(compare, rng, equation, shapes):
    tensors = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = np.asarray(np.einsum(equation.replace(" ", ""), *tensors))
    compare("Einsum", *tensors, expected=[expected], equation=equation, tolerance=1e-5)
