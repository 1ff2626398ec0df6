"""Operators between DequantizeLinear and QuantizeLinear, against onnxruntime: nothing of four bytes lies in memory."""

from __future__ import annotations

import numpy as np

SHAPE = (1, 35, 9, 8)


def given(model, seed: int, *shape: int, dtype: str = "uint8", scale: float = 2.0**-5, zero: int = 3) -> str:
    low = 0 if dtype == "uint8" else -128
    image = model.given(np.random.default_rng(seed).integers(low, low + 256, shape or SHAPE).astype(dtype))
    return str(model.node("DequantizeLinear", image, model.constant(scale), model.constant(zero, dtype)))


def quantized(model, value: str, scale: float = 2.0**-4, zero: int = 7) -> None:
    model.output(model.node("QuantizeLinear", value, model.constant(scale), model.constant(zero, "uint8")))


def stays_in_bytes(program) -> None:
    """All that the program's steps share with each other, or with the caller, are bytes."""
    computed = {name for call in program.calls() for name in call.arguments} - set(program.weights)
    for name in computed:
        assert program.buffers[name].dtype in ("uint8", "int8"), program.buffers[name]


def test_pooling_and_reductions(model, agree) -> None:
    quantized(model, model.node("MaxPool", given(model, 0), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    quantized(model, model.node("AveragePool", given(model, 1), kernel_shape=[2, 2], strides=[2, 2]))
    quantized(model, model.node("AveragePool", given(model, 2, dtype="int8"), kernel_shape=[2, 2]))
    quantized(model, model.node("GlobalAveragePool", given(model, 3, 2, 20, 8, 8)))
    axes = model.constant([2, 3], "int64")
    quantized(model, model.node("ReduceMean", given(model, 4, 1, 20, 8, 8), axes))
    program = agree(model)[1]
    stays_in_bytes(program)


def test_resize(model, agree) -> None:
    scales = model.constant([1, 1, 2, 2])
    for mode in ("nearest", "linear"):
        x = given(model, 5)
        made = model.node("Resize", x, "", scales, mode=mode, coordinate_transformation_mode="half_pixel")
        quantized(model, made)
    stays_in_bytes(agree(model)[1])


def test_softmax(model, agree) -> None:
    quantized(model, model.node("Softmax", given(model, 6, 12, 40), axis=-1), 2.0**-8, 0)
    stays_in_bytes(agree(model)[1])


def test_elementwise(model, agree) -> None:
    a, b = given(model, 7), given(model, 8, dtype="int8", scale=2.0**-4)
    quantized(model, model.node("Add", a, b))
    quantized(model, model.node("Mul", a, b), 2.0**-6)
    quantized(model, model.node("Max", a, b))
    stays_in_bytes(agree(model)[1])


def test_concatenation_of_different_scales(model, agree) -> None:
    parts = [given(model, 9, scale=2.0**-4, zero=7), given(model, 10), given(model, 11, dtype="int8")]
    quantized(model, model.node("Concat", *parts, axis=1))
    (program,) = agree(model, passes=[True])
    stays_in_bytes(program)
    # Two parts become other bytes, that of the result's own scale is copied.
    assert len(list(program.calls())) == 3
