"""Quantization of what is linear in integers, against onnxruntime: exact where scales are powers of two.

With other scales float32 rounds at other places than onnxruntime does, which shows where a number lies as near to a
half as float32 can tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lepton_compile.codegen import generate
from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.runtime.loader import CompiledModel

from .conftest import onnxruntimes

# Of the numbers that are no ties, float32 takes no more than these for one.
MOST_TIES = 1e-3


@pytest.fixture
def within_ties(host) -> Callable[..., None]:
    """Compile a model and compare: integers may differ by one step, a few of them."""

    def check(model) -> None:
        wanted = onnxruntimes(model.proto(), model.inputs)
        graph, _ = adapt(import_model(model.proto()), host)
        library = generate(lower(graph, host, "model"), host)
        got = CompiledModel(library.folder, keep=library).run(model.inputs)
        for name, expected in wanted.items():
            apart = np.abs(got[name].astype(np.int64) - expected.astype(np.int64))
            assert apart.max() <= 1, name
            assert np.mean(apart > 0) <= MOST_TIES, name
            assert len(np.unique(expected)) > 20, name

    return check


class Drawn:
    """Dequantized tensors and quantized results with parameters drawn from a seed."""

    def __init__(self, model, seed: int) -> None:
        self.model, self.random = model, np.random.default_rng(seed)

    def scale(self, exact: bool = False) -> float:
        return float(2.0 ** self.random.integers(-7, -4)) if exact else float(self.random.uniform(0.005, 0.05))

    def bytes(self, *shape: int, exact: bool = False) -> str:
        dtype = str(self.random.choice(["uint8", "int8"]))
        low = 0 if dtype == "uint8" else -128
        image = self.model.given(self.random.integers(low, low + 256, shape).astype(dtype))
        zero = self.model.constant(self.random.integers(low, low + 256), dtype)
        return str(self.model.node("DequantizeLinear", image, self.model.constant(self.scale(exact)), zero))

    def weights(self, *shape: int, axis: int, exact: bool = False) -> str:
        stored = self.model.constant(self.random.integers(-127, 128, shape), "int8")
        scales = [self.scale(exact) / 8 for _ in range(shape[axis])]
        return str(self.model.node("DequantizeLinear", stored, self.model.constant(scales), axis=axis))

    def quantized(self, value: str, step: float) -> None:
        dtype = str(self.random.choice(["uint8", "int8"]))
        zero = self.random.integers(90, 160) - (128 if dtype == "int8" else 0)
        made = self.model.node("QuantizeLinear", value, self.model.constant(step), self.model.constant(zero, dtype))
        self.model.output(made)


@pytest.mark.parametrize("seed", range(3))
def test_convolutions_and_products(seed: int, model, within_ties) -> None:
    drawn = Drawn(model, seed)
    for pads in (0, 1):
        x, w = drawn.bytes(1, 20, 11, 12), drawn.weights(24, 20, 3, 3, axis=0)
        bias = model.constant(drawn.random.standard_normal(24))
        value = model.node("Conv", x, w, bias, pads=[pads] * 4)
        other = drawn.bytes(1, 24, 9 + 2 * pads, 10 + 2 * pads)
        drawn.quantized(model.node("Relu", value), 0.031)
        value = model.node("Conv", x, w, bias, pads=[pads] * 4)
        drawn.quantized(model.node("Clip", value, model.constant(-0.7), model.constant(1.9)), 0.0251)
        value = model.node("Conv", x, w, bias, pads=[pads] * 4)
        drawn.quantized(model.node("Relu", model.node("Add", other, value)), 0.041)
        value = model.node("Conv", x, w, bias, pads=[pads] * 4)
        drawn.quantized(model.node("Sub", other, model.node("Mul", value, model.constant(0.3))), 0.037)
    a, b = drawn.bytes(30, 65), drawn.weights(65, 40, axis=1)
    drawn.quantized(model.node("Add", model.node("MatMul", a, b), model.constant(np.arange(40) / 9)), 0.043)
    c = model.constant(drawn.random.standard_normal(40))
    drawn.quantized(model.node("Gemm", a, b, c, alpha=0.7, beta=1.3), 0.03)
    within_ties(model)


@pytest.mark.parametrize("exact", [False, True])
def test_elementwise(exact: bool, model, within_ties, agree) -> None:
    drawn = Drawn(model, 7 + exact)
    step = 2.0**-6 if exact else 0.0173
    for _ in range(3):
        a, b, c = (drawn.bytes(2, 19, 6, 7, exact=exact) for _ in range(3))
        row = drawn.bytes(2, 19, 1, 1, exact=exact)
        drawn.quantized(model.node("Add", a, b), step)
        drawn.quantized(model.node("Relu", model.node("Sub", model.node("Add", a, b), c)), step)
        drawn.quantized(model.node("Mul", a, row), step)
        drawn.quantized(model.node("Add", model.node("Mul", b, model.constant(0.375)), model.constant(0.25)), step)
    agree(model) if exact else within_ties(model)


def test_what_might_overflow_is_computed_as_it_stands(model, agree) -> None:
    """A step so small that everything is beyond the range, and halves away from it nothing may wrap around."""
    drawn = Drawn(model, 1)
    image = drawn.bytes(1, 16, 5, 6, exact=True)
    value = model.node("Conv", image, drawn.weights(16, 16, 3, 3, axis=0, exact=True))
    for step in (2.0**-31, 2.0**-24):
        zero = model.constant(3, "uint8")
        model.output(model.node("QuantizeLinear", value, model.constant(step), zero))
    agree(model)
