"""Conv and ConvTranspose nodes, against onnxruntime. Each model holds many, one per output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.target import resolve_target

CONVOLUTIONS = {
    "plain": ((1, 16, 9, 10), (20, 16, 3, 3), {}),
    "upper": ((1, 9, 10, 11), (8, 9, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "lower": ((1, 9, 10, 11), (8, 9, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "valid": ((1, 3, 10, 11), (8, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "few": ((2, 3, 12, 13), (18, 3, 5, 5), {"pads": [2, 1, 2, 3], "strides": [2, 2]}),
    "groups": ((1, 24, 6, 7), (36, 8, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "across_blocks": ((1, 12, 6, 7), (102, 4, 1, 1), {"group": 3}),
    "depthwise": ((1, 24, 8, 7), (24, 1, 3, 3), {"group": 24, "pads": [1, 1, 1, 1]}),
    "multiplied": ((1, 12, 8, 7), (24, 1, 3, 3), {"group": 12, "pads": [1, 1, 1, 1]}),
    "one_channel": ((1, 1, 8, 7), (1, 1, 3, 3), {}),
    "pointwise": ((2, 33, 5, 6), (17, 33, 1, 1), {}),
    "line": ((1, 10, 50), (12, 10, 5), {"pads": [4, 0], "dilations": [1]}),
    "volume": ((1, 6, 4, 5, 6), (9, 6, 2, 3, 3), {"pads": [0, 1, 1, 1, 1, 1]}),
    "one_number": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
}


def test_conv(model, agree) -> None:
    for name, (shape, weights, attributes) in CONVOLUTIONS.items():
        convolved = model.node(
            "Conv", model.input(*shape), model.weight(*weights), model.weight(weights[0]), **attributes
        )
        model.output(model.node("Relu", convolved, name=name))
    agree(model)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_conv_for_other_instruction_sets(name: str, model, agree) -> None:
    target = resolve_target(name)
    if not target.is_host_compatible():
        pytest.skip(f"this machine runs no code for {name}")
    for case in ("few", "groups", "across_blocks", "depthwise", "pointwise"):
        shape, weights, attributes = CONVOLUTIONS[case]
        model.output(model.node("Conv", model.input(*shape), model.weight(*weights), name=case, **attributes))
    agree(model, target=target, passes=[True])


def test_conv_with_computed_weights(model, agree) -> None:
    """Weights that are inputs, or computed; biases too; and depthwise ones."""
    for name, shape, weights, group in [
        ("input", (1, 12, 7, 8), (20, 12, 3, 3), 1),
        ("grouped", (1, 12, 7, 8), (9, 4, 3, 3), 3),
        ("each", (1, 12, 7, 8), (12, 1, 3, 3), 12),
        ("flat", (1, 40, 5, 5), (24, 40, 1, 1), 1),
    ]:
        kernel = model.node("Tanh", model.input(*weights))
        model.output(model.node("Conv", model.input(*shape), kernel, model.input(weights[0]), group=group, name=name))
    agree(model)


def test_channels_in_another_order(model, agree) -> None:
    """Shuffled, reversed, some of them, or of a tensor that is computed: for kernels of all kinds."""
    orders = {
        "shuffled": np.arange(24).reshape(4, 6).T.ravel(),
        "reversed": np.arange(23, -1, -1),
        "some": [3, -1, 3, 7],
    }
    for name, order in orders.items():
        image = model.node("Relu", model.input(1, 24, 9, 10))
        for group, kernel in [(1, 3), (2, 1), (len(order), 3)]:
            gathered = model.node("Gather", image, model.constant(order, "int64"), axis=1)
            weight = model.weight(len(order), len(order) // group, kernel, kernel)
            made = model.node("Conv", gathered, weight, group=group, name=f"{name}{group}")
            model.output(model.node("Tanh", made))
    split = model.node(
        "Reshape", model.node("Relu", model.input(1, 24, 9, 10)), model.constant([1, 4, 6, 9, 10], "int64")
    )
    joined = model.constant([1, 24, 9, 10], "int64")
    shuffled = model.node("Reshape", model.node("Transpose", split, perm=[0, 2, 1, 3, 4]), joined)
    each = model.node("Conv", shuffled, model.weight(24, 1, 3, 3), model.weight(24), group=24)
    model.output(model.node("Conv", each, model.weight(20, 6, 1, 1), group=4))
    agree(model)


def test_a_convolution_that_is_read_twice(model, agree) -> None:
    """Stored once, though one reader could have been its epilogue."""
    convolved = model.node("Conv", model.input(1, 16, 9, 9), model.weight(16, 16, 3, 3), pads=[1, 1, 1, 1])
    model.output(convolved, model.node("Relu", convolved), model.node("Conv", convolved, model.weight(8, 16, 1, 1)))
    agree(model)


def test_residuals_and_activations(model, agree) -> None:
    x = model.input(1, 20, 9, 9)
    one = model.node("Conv", x, model.weight(20, 20, 3, 3), model.weight(20), pads=[1, 1, 1, 1])
    other = model.node("Conv", x, model.weight(20, 20, 1, 1))
    total = model.node("Add", model.node("Mul", one, model.node("Sigmoid", one)), other)
    scaled = model.node("Mul", total, model.weight(1, 20, 1, 1))
    model.output(
        model.node("HardSwish", model.node("Add", scaled, x)), model.node("PRelu", other, model.weight(20, 1, 1))
    )
    # Broadcast along the pixels, not the channels; and a result that is larger than what was convolved.
    one_channel = model.node("Conv", x, model.weight(1, 20, 1, 1))
    model.output(model.node("Add", other, model.weight(9, 9)), model.node("Mul", one_channel, x))
    agree(model)


TRANSPOSED = {
    "plain": ((1, 12, 5, 6), (12, 10, 3, 3), {}),
    "strided": ((1, 12, 5, 6), (12, 20, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "past_the_kernel": ((1, 8, 5, 6), (8, 9, 2, 1), {"strides": [3, 2]}),
    "padded_output": ((1, 8, 5, 6), (8, 9, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "dilated": ((1, 8, 5, 6), (8, 9, 3, 2), {"strides": [2, 3], "dilations": [2, 3]}),
    "groups": ((2, 12, 5, 6), (12, 5, 3, 3), {"group": 3, "strides": [2, 2]}),
    "depthwise": ((1, 8, 5, 6), (8, 1, 4, 4), {"group": 8, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "wanted_shape": ((1, 8, 5, 6), (8, 9, 3, 3), {"strides": [2, 2], "output_shape": [10, 13]}),
    "upper": ((1, 8, 5, 6), (8, 9, 4, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "lower": ((1, 8, 5, 6), (8, 9, 4, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "upper_wanted": (
        (1, 8, 5, 6),
        (8, 9, 4, 3),
        {"strides": [2, 2], "output_shape": [9, 12], "auto_pad": "SAME_UPPER"},
    ),
    "asymmetric": ((1, 8, 5, 6), (8, 9, 3, 3), {"strides": [2, 1], "pads": [0, 2, 1, 0]}),
    "dilated_patches": ((1, 16, 8, 8), (16, 1, 2, 2), {"strides": [2, 2], "dilations": [2, 2], "pads": [0, 0, 1, 1]}),
    "patches": ((2, 12, 5, 6), (12, 1, 2, 2), {"strides": [2, 2]}),
    "uneven_patches": ((1, 20, 5, 6), (20, 3, 3, 2), {"strides": [3, 2]}),
    "patches_of_a_line": ((1, 8, 15), (8, 2, 4), {"strides": [4]}),
    "line": ((1, 8, 15), (8, 9, 5), {"strides": [4]}),
    "volume": ((1, 8, 3, 4, 3), (8, 9, 2, 3, 2), {"strides": [2, 2, 1]}),
}


def test_conv_transpose(model, agree) -> None:
    for name, (shape, weights, attributes) in TRANSPOSED.items():
        bias = model.weight(weights[1] * attributes.get("group", 1))
        made = model.node("ConvTranspose", model.input(*shape), model.weight(*weights), bias, **attributes)
        model.output(model.node("Relu", made, name=name))
    agree(model, passes=[True])


def test_a_kernel_that_does_not_fit_is_an_error(model, host) -> None:
    model.output(model.node("Conv", model.input(1, 3, 4, 4), model.weight(3, 3, 5, 5), pads=[1, 0, 0, 0], name="y"))
    with pytest.raises(UnsupportedOperatorError, match=r"node_y.*shape \[1, 3, 1, 0\]"):
        lower(import_model(model.proto()), host, "model")


def test_convolutions_of_other_types(model, agree) -> None:
    for dtype in ("float64", "float16"):
        x, bias = model.input(2, 6, 7, 8, dtype=dtype), model.input(4, dtype=dtype)
        w = model.input(4, 3, 3, 2, dtype=dtype)
        model.output(model.node("Conv", x, w, bias, group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]))
        pads = {"strides": [2, 3], "pads": [1, 0, 0, 1], "dilations": [2, 1]}
        model.output(model.node("ConvTranspose", x, model.input(6, 4, 3, 2, dtype=dtype), bias, **pads))
    agree(model, passes=[False], reference=True)


def test_conv_transpose_with_computed_weights(model, agree) -> None:
    x, w = model.input(1, 6, 5, 4), model.node("Tanh", model.input(6, 5, 4, 4))
    model.output(model.node("ConvTranspose", x, w, model.input(5), strides=[2, 2], pads=[1, 1, 1, 1]))
    agree(model)


def test_conv_integer(model, agree) -> None:
    x, w = model.input(1, 3, 6, 7, dtype="uint8"), model.weight(4, 3, 3, 3, dtype="uint8")
    model.output(model.node("ConvInteger", x, w, pads=[1, 1, 1, 1]))
    model.output(model.node("ConvInteger", x, w, model.constant(4, "uint8"), model.constant(2, "uint8")))
    agree(model)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.INT32])
@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_a_long_epilogue_may_end_in_another_type(operator, dtype, model, agree):
    """The tile cannot be stored as it is in a result of another type."""
    x, w = (
        (model.input(1, 5, 9, 9), model.weight(7, 5, 3, 3))
        if operator == "Conv"
        else (model.input(9, 5), model.weight(5, 7))
    )
    value = model.node(operator, x, w)
    gated = model.node("Mul", value, model.node("Sigmoid", value))
    ten = model.constant(10.0)
    model.output(model.node("Cast", model.node("Mul", model.node("Tanh", gated), ten), to=dtype))
    agree(model)


def test_what_no_tap_reaches_is_the_bias_even_beside_infinities(model, agree) -> None:
    x = np.ones((1, 2, 3, 20), np.float32)
    x[0, :, 1, ::3] = np.inf
    model.output(
        model.node(
            "ConvTranspose",
            model.given(x),
            model.constant(np.ones((2, 2, 1, 2))),
            model.constant([3, 4]),
            strides=[2, 3],
        )
    )
    agree(model)


def test_dilated_convolutions_of_few_channels(model, agree) -> None:
    """Where minimal filtering would be faster if it took dilations."""
    for channels, kernel in ((7, 3), (4, 5)):
        x, w = model.input(1, channels, 40, 40), model.weight(64, channels, kernel, kernel)
        model.output(model.node("Conv", x, w, dilations=[2, 2], pads=[kernel - 1] * 4))
    agree(model)
