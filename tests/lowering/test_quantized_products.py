"""MatMul and Gemm between DequantizeLinear and QuantizeLinear, against onnxruntime.

Scales are powers of two, so that float32 rounds nothing and onnxruntime's answers are exact.
"""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target

PRODUCTS = {
    "matrix": ((20, 64), 48, ("uint8", 0)),
    "batch": ((2, 3, 9, 32), 17, ("uint8", 7)),
    "vector": ((1, 128), 100, ("int8", -3)),
    "symmetric": ((5, 36), 33, ("int8", 0)),
    "two_left": ((4, 30), 16, ("uint8", 128)),
    "one_left": ((7, 65), 40, ("int8", 5)),
    "three": ((3, 3), 20, ("int8", -7)),
}


def dequantized(model, name: str) -> tuple[str, int]:
    """The left operand of a product, and the length of its rows."""
    shape, _, (dtype, zero) = PRODUCTS[name]
    rng = np.random.default_rng(len(name))
    low = 0 if dtype == "uint8" else -128
    image = model.given(rng.integers(low, low + 256, shape).astype(dtype))
    return model.node("DequantizeLinear", image, model.constant(2**-6), model.constant(zero, dtype)), shape[-1]


def weights(model, rows: int, columns: int, axis: int) -> str:
    """Dequantized weights with a scale for each place on an axis."""
    rng = np.random.default_rng(rows)
    stored = model.constant(rng.integers(-127, 128, (rows, columns)), "int8")
    scales = 2.0 ** rng.integers(-9, -5, (rows, columns)[axis])
    return str(model.node("DequantizeLinear", stored, model.constant(scales), axis=axis))


def quantized(model, value: str, name: str) -> None:
    """Quantize a value, as an output of the model."""
    model.output(model.node("QuantizeLinear", value, model.constant(0.5), model.constant(-9, "int8"), name=name))


def test_matmul(model, agree) -> None:
    for name, (_, columns, _) in PRODUCTS.items():
        left, inner = dequantized(model, name)
        value = model.node("MatMul", left, weights(model, inner, columns, 1))
        biased = model.node("Add", value, model.constant(np.arange(columns) / 4))
        quantized(model, model.node("Relu", biased), name)
        left, inner = dequantized(model, name)
        model.output(model.node("MatMul", left, weights(model, inner, columns, 1), name=f"{name} as it is"))
    agree(model)


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transB": 1, "alpha": 0.5, "beta": 2.0}])
def test_gemm(model, agree, attributes) -> None:
    for name in ("matrix", "vector", "two_left"):
        left, inner = dequantized(model, name)
        columns = PRODUCTS[name][1]
        right = weights(model, columns, inner, 0) if attributes.get("transB") else weights(model, inner, columns, 1)
        value = model.node("Gemm", left, right, model.constant(np.arange(columns) / 4), **attributes)
        quantized(model, value, name)
    agree(model)


def test_scales_along_the_inner_axis_are_left_to_float32(model, agree) -> None:
    left, inner = dequantized(model, "matrix")
    model.output(model.node("MatMul", left, weights(model, inner, 16, 0)))
    agree(model)


def test_which_products_are_sums_of_bytes(model) -> None:
    """All of them; each is one kernel."""
    for name, (_, columns, _) in PRODUCTS.items():
        left, inner = dequantized(model, name)
        quantized(model, model.node("MatMul", left, weights(model, inner, columns, 1)), name)
    target = resolve_target("x86-64-v4-vnni")
    graph, _ = adapt(import_model(model.proto()), target)
    program = lower(graph, target, "model")
    families = [program.kernels[call.kernel].family for call in program.calls()]
    assert families.count("integer matmul") == len(PRODUCTS)
