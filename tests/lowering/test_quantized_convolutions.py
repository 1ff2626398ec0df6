"""Convolutions between DequantizeLinear and QuantizeLinear, against onnxruntime. Each model holds many, one per output.

Scales are powers of two, so that float32 rounds nothing and onnxruntime's answers are exact.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target

CONVOLUTIONS = {
    "plain": ((1, 16, 9, 10), (20, 16, 3, 3), ("uint8", 0), {}),
    "border": ((1, 32, 9, 10), (48, 32, 3, 3), ("uint8", 7), {"pads": [1, 1, 1, 1]}),
    "signed": ((2, 17, 9, 10), (16, 17, 3, 3), ("int8", -3), {"pads": [1, 0, 2, 1], "strides": [2, 2]}),
    "symmetric": ((1, 24, 7, 7), (40, 24, 1, 1), ("int8", 0), {}),
    "all_border": ((1, 8, 3, 2), (18, 8, 5, 5), ("uint8", 128), {"pads": [2, 2, 2, 2]}),
    "few": ((1, 3, 30, 31), (16, 3, 7, 7), ("uint8", 114), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "gray": ((2, 1, 12, 13), (20, 1, 5, 3), ("int8", 4), {"pads": [2, 1, 2, 1]}),
    "four": ((1, 4, 9, 17), (9, 4, 1, 1), ("uint8", 30), {}),
    "depthwise_few": ((1, 3, 9, 8), (3, 1, 3, 3), ("uint8", 30), {"group": 3}),
    "dilated": ((1, 20, 14, 14), (16, 20, 3, 3), ("uint8", 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    "groups": ((1, 64, 6, 7), (32, 32, 3, 3), ("uint8", 5), {"group": 2, "pads": [1, 1, 1, 1]}),
    "odd_groups": ((1, 12, 6, 7), (36, 4, 3, 3), ("uint8", 5), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((1, 24, 8, 7), (24, 1, 3, 3), ("uint8", 2), {"group": 24, "pads": [1, 1, 1, 1]}),
    "depthwise_signed": ((2, 35, 11, 9), (35, 1, 5, 5), ("int8", -2), {"group": 35, "pads": [2, 2, 2, 2]}),
    "depthwise_strided": (
        (1, 48, 30, 31),
        (48, 1, 3, 3),
        ("uint8", 9),
        {"group": 48, "pads": [0, 1, 1, 1], "strides": [2, 2]},
    ),
    "depthwise_narrow": ((1, 16, 9, 3), (16, 1, 3, 3), ("uint8", 0), {"group": 16, "pads": [1, 1, 1, 1]}),
    "depthwise_wide": (
        (1, 20, 6, 40),
        (20, 1, 1, 7),
        ("uint8", 77),
        {"group": 20, "pads": [0, 3, 0, 3], "dilations": [2, 1]},
    ),
    "depthwise_dilated": ((1, 16, 12, 12), (16, 1, 3, 3), ("uint8", 5), {"group": 16, "dilations": [2, 2]}),
    "depthwise_line": ((1, 24, 50), (24, 1, 5), ("int8", 9), {"group": 24, "pads": [4, 0]}),
    "line": ((1, 10, 50), (12, 10, 5), ("int8", 9), {"pads": [4, 0]}),
    "volume": ((1, 6, 4, 5, 6), (9, 6, 2, 3, 3), ("uint8", 200), {"pads": [0, 1, 1, 1, 1, 1]}),
}


def convolved(model, name: str, *, epilogue: str = "", weights_zero: int = 0, per_channel: bool = True) -> str:
    """A quantized convolution of CONVOLUTIONS, in float32 again."""
    shape, kernel, (dtype, zero), attributes = CONVOLUTIONS[name]
    rng = np.random.default_rng(len(name))
    low = 0 if dtype == "uint8" else -128
    image = model.given(rng.integers(low, low + 256, shape).astype(dtype))
    x = model.node("DequantizeLinear", image, model.constant(2**-6), model.constant(zero, dtype))
    scales = 2.0 ** rng.integers(-9, -5, kernel[0]) if per_channel else 2.0**-7
    zeros = np.zeros(kernel[0]) if per_channel else weights_zero
    weights = rng.integers(-127, 128, kernel) + weights_zero
    stored = model.constant(weights, "uint8" if weights_zero else "int8")
    w = model.node(
        "DequantizeLinear",
        stored,
        model.constant(scales),
        model.constant(zeros, "uint8" if weights_zero else "int8"),
        axis=0,
    )
    bias = model.constant(rng.integers(-99, 99, kernel[0]) / 16)
    return str(model.node("Conv", x, w, bias, **attributes))


def quantized(model, value: str, name: str) -> None:
    """Quantize a value, as an output of the model."""
    model.output(model.node("QuantizeLinear", value, model.constant(0.25), model.constant(100, "uint8"), name=name))


def test_conv(model, agree) -> None:
    for name in CONVOLUTIONS:
        value = convolved(model, name)
        quantized(model, model.node("Relu", value) if len(name) % 2 else value, name)
    agree(model, exact_order=True)


def test_conv_that_gives_floats(model, agree) -> None:
    for name in ("plain", "border", "signed", "few"):
        model.output(model.node("Sigmoid", convolved(model, name), name=name))
    agree(model)


def test_weights_around_a_zero_point(model, agree) -> None:
    """Unsigned weights of one scale, of values that a signed byte holds, and of others."""
    quantized(model, convolved(model, "border", weights_zero=128, per_channel=False), "holds")
    quantized(model, convolved(model, "border", weights_zero=127, per_channel=False), "other")
    agree(model, exact_order=True)


def test_a_residual_stays_quantized(model, agree) -> None:
    shape = (1, 20, 7, 8)
    other = model.given(np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8))
    shared = model.node("DequantizeLinear", other, model.constant(0.25), model.constant(9, "uint8"))
    quantized(model, model.node("Relu", model.node("Add", convolved(model, "plain"), shared)), "added")
    quantized(model, model.node("Mul", convolved(model, "plain"), shared), "multiplied")
    agree(model, exact_order=True)


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_processors_without_the_instruction_compute_in_float32(name: str, model, agree) -> None:
    target = resolve_target(name)
    if not target.is_host_compatible():
        pytest.skip(f"this machine runs no code for {name}")
    for case in ("symmetric", "dilated"):
        quantized(model, convolved(model, case), case)
    (program,) = agree(model, target=target, passes=[True])
    assert "integer convolution" not in families(program)


def test_which_convolutions_are_sums_of_bytes(model) -> None:
    """All but dilated depthwise ones, which read bytes, and groups that are no whole vectors; each is one kernel."""
    for name in CONVOLUTIONS:
        quantized(model, convolved(model, name), name)
    target = resolve_target("x86-64-v4-vnni")
    graph, _ = adapt(import_model(model.proto()), target)
    program = lower(graph, target, "model")
    slid = sum(name.startswith("depthwise") for name in CONVOLUTIONS)
    assert families(program).count("integer convolution") == len(CONVOLUTIONS) - 1 - slid
    assert families(program).count("integer depthwise") == slid - 1
    (depthwise,) = [call for call in program.calls() if program.kernels[call.kernel].family == "depthwise"]
    assert program.buffers[depthwise.arguments[0]].dtype == "uint8"


def test_a_scale_of_the_image_along_an_axis_is_left_to_float32(model, agree) -> None:
    image = model.given(np.arange(2 * 16 * 5 * 5).reshape(2, 16, 5, 5).astype(np.uint8))
    scales, zeros = model.constant(2.0 ** -np.arange(16)), model.constant(np.arange(16), "uint8")
    x = model.node("DequantizeLinear", image, scales, zeros, axis=1)
    weights = np.random.default_rng(0).integers(-9, 9, (16, 16, 1, 1))
    w = model.node("DequantizeLinear", model.constant(weights, "int8"), model.constant(0.5))
    model.output(model.node("Conv", x, w))
    agree(model)


def families(program) -> list[str]:
    """The kernel family of every call."""
    return [program.kernels[call.kernel].family for call in program.calls()]


def test_the_sums_may_not_overflow(model) -> None:
    """65536 products and more are added in float32."""
    image = model.input(1, 70000, 1, 1, dtype="uint8")
    x = model.node("DequantizeLinear", image, model.constant(0.5))
    w = model.node("DequantizeLinear", model.constant(np.ones((16, 70000, 1, 1)), "int8"), model.constant(0.5))
    model.output(model.node("Conv", x, w))
    target = resolve_target("x86-64-v4-vnni")
    graph, _ = adapt(import_model(model.proto()), target)
    assert isinstance(graph.to_model(), onnx.ModelProto)
    assert "integer convolution" not in families(lower(graph, target, "model"))
