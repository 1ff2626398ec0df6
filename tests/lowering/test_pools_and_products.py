"""Pooling, MatMul, Gemm and Concat nodes, against onnxruntime. Each model holds many, one per output."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.lowering import lower
from lepton_compile.model import import_model

POOLS = {
    "plain": ((1, 20, 8, 9), {"kernel_shape": [2, 2]}),
    "strided": ((2, 5, 11, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "ceil": ((1, 5, 11, 12), {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    "ceil_padded": ((1, 5, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "upper": ((1, 5, 11, 12), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "lower": ((1, 5, 11, 12), {"kernel_shape": [4, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "dilated": ((1, 5, 11, 12), {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    "line": ((1, 5, 30), {"kernel_shape": [4], "strides": [2]}),
    "volume": ((1, 5, 4, 5, 6), {"kernel_shape": [2, 2, 3], "strides": [1, 2, 2]}),
    "whole": ((2, 5, 7, 7), {"kernel_shape": [7, 7]}),
}


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pools(op_type: str, model, agree) -> None:
    for name, (shape, attributes) in POOLS.items():
        model.output(model.node(op_type, model.input(*shape), name=name, **attributes))
        if op_type == "AveragePool" and "pads" in attributes:
            model.output(
                model.node(op_type, model.input(*shape), name=f"{name}_counted", count_include_pad=1, **attributes)
            )
    # Until version 22, ONNX's shape inference and onnxruntime disagree on windows that start in the padding behind.
    agree(model, passes=[False], opset=22)


def test_pools_of_other_types(model, agree) -> None:
    for dtype in ("float64", "float16", "uint8", "int8"):
        x = model.input(2, 3, 9, 10, dtype=dtype)
        model.output(model.node("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]))
        if "float" in dtype:
            model.output(model.node("AveragePool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]))
            counted = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}
            model.output(model.node("AveragePool", x, ceil_mode=1, **counted))
    agree(model, passes=[False], reference=True, opset=22)


def test_pools_between_convolutions(model, agree) -> None:
    x = model.node("Relu", model.node("Conv", model.input(1, 3, 17, 18), model.weight(20, 3, 3, 3)))
    small = model.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    means = model.node("GlobalAveragePool", small)
    gate = model.node("Sigmoid", model.node("Conv", means, model.weight(20, 20, 1, 1)))
    gated = model.node("Mul", small, gate)
    model.output(model.node("Flatten", gated), model.node("AveragePool", gated, kernel_shape=[2, 2], ceil_mode=1))
    agree(model)


PRODUCTS = [
    ((5, 7), (7, 9)), ((1, 64), (64, 100)), ((2, 3, 5, 7), (2, 3, 7, 9)), ((2, 3, 5, 7), (7, 9)), ((5, 7), (4, 7, 9)),
    ((1, 5, 7), (1, 7, 9)), ((2, 1, 5, 7), (3, 7, 9)), ((7,), (7, 9)), ((5, 7), (7,)), ((7,), (7,)), ((3, 5, 7), (7,)),
    ((7,), (3, 7, 9)), ((1, 1), (1, 1)), ((2, 5, 7), (1, 7, 9)), ((3, 1, 7), (7, 1)),
]  # fmt: skip


@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
def test_matmul(constant: bool, model, agree) -> None:
    for left, right in PRODUCTS:
        b = model.weight(*right) if constant else model.input(*right)
        model.output(model.node("MatMul", model.input(*left), b))
    model.output(model.node("MatMul", model.weight(5, 7), model.input(7, 9)))
    agree(model, passes=[constant])


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64"])
def test_matmul_of_other_types(dtype: str, model, agree) -> None:
    for left, right in PRODUCTS[:8]:
        model.output(model.node("MatMul", model.input(*left, dtype=dtype), model.input(*right, dtype=dtype)))
    agree(model, passes=[False])


@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
def test_gemm(constant: bool, model, agree) -> None:
    operand = model.weight if constant else model.input
    for transposed_a in (0, 1):
        for transposed_b in (0, 1):
            a = model.input(*((7, 5) if transposed_a else (5, 7)))
            b = operand(*((9, 7) if transposed_b else (7, 9)))
            model.output(model.node("Gemm", a, b, transA=transposed_a, transB=transposed_b, alpha=0.5))
    a = model.input(5, 7)
    for shape in ((), (1,), (9,), (1, 9), (5, 1), (5, 9), (1, 1)):
        c = operand(*shape)
        model.output(model.node("Gemm", a, model.weight(7, 9), c))
        model.output(model.node("Gemm", a, model.weight(9, 7), c, transB=1, beta=0.25, alpha=2.0))
    agree(model)


def test_gemm_of_other_types(model, agree) -> None:
    for dtype in ("float64", "float16"):
        a, b = model.input(7, 5, dtype=dtype), model.input(9, 7, dtype=dtype)
        c = model.input(5, 1, dtype=dtype)
        model.output(model.node("Gemm", a, b, c, transA=1, transB=1, alpha=0.5, beta=2.0))
        model.output(model.node("Gemm", a, a, transA=1))
    agree(model, passes=[False], reference=True)


def test_integer_products(model, agree) -> None:
    a, b = model.input(2, 5, 7, dtype="uint8"), model.input(7, 9, dtype="uint8")
    model.output(model.node("MatMulInteger", a, b))
    model.output(model.node("MatMulInteger", a, b, model.constant(3, "uint8"), model.constant(5, "uint8")))
    signed = model.constant([[1, -2, 3], [4, 5, -6]], "int8")
    zeros = model.constant([1, 2, 3], "int8")
    model.output(
        model.node("MatMulInteger", model.input(4, 2, dtype="uint8"), signed, model.constant(7, "uint8"), zeros)
    )
    agree(model, passes=[False])


def test_products_and_what_is_behind_them(model, agree) -> None:
    x = model.input(2, 9, 24)
    one = model.node("Add", model.node("MatMul", x, model.weight(24, 40)), model.weight(40))
    other = model.node("Mul", one, model.node("Sigmoid", one))
    back = model.node("Add", model.node("MatMul", other, model.weight(40, 24)), x)
    squared = model.node("MatMul", back, model.node("Transpose", back, perm=[0, 2, 1]))
    model.output(model.node("Softmax", squared, axis=-1), model.node("MatMul", squared, squared))
    agree(model)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(axis: int, model, agree) -> None:
    """Inputs, constants, blocked tensors of unaligned channels, and one tensor twice."""
    x = model.input(1, 5, 6, 7)
    convolved = model.node("Conv", x, model.weight(21, 5, 3, 3), pads=[1, 1, 1, 1])
    other = model.node("Conv", x, model.weight(21 if axis != 1 else 4, 5, 1, 1))
    model.output(model.node("Concat", convolved, other, convolved, axis=axis))
    model.output(model.node("Concat", x, model.weight(1, 5, 6, 7), x, axis=axis))
    joined = model.node("Concat", convolved, model.node("Relu", convolved), axis=axis)
    model.output(joined, model.node("MaxPool", joined, kernel_shape=[2, 2]))
    model.output(
        model.node("Concat", model.node("Conv", joined, model.weight(3, 42 if axis == 1 else 21, 1, 1)), axis=axis)
    )
    agree(model)


def test_concat_of_other_types(model, agree) -> None:
    for dtype in ("int64", "bool", "float16", "uint8", "float64"):
        a, b = model.input(2, 3, dtype=dtype), model.input(2, 5, dtype=dtype)
        model.output(model.node("Concat", a, b, model.constant([[1], [0]], dtype), axis=1))
    vector = model.node("Concat", model.input(3), model.constant([]), model.input(4), axis=0)
    model.output(vector, model.node("Concat", vector, axis=0))
    agree(model)


def test_operators_without_a_kernel_are_listed_together(model, host) -> None:
    x = model.input(3, 4)
    values, places = model.node("TopK", x, model.constant([2], "int64"), outputs=2)
    spectrum = model.node("DFT", model.node("Unsqueeze", x, model.constant([2], "int64")))
    model.output(values, places, spectrum, *model.node("TopK", x, model.constant([1], "int64"), outputs=2))
    with pytest.raises(UnsupportedOperatorError, match=r"DFT.*TopK") as caught:
        lower(import_model(model.proto()), host, "model")
    nodes = {operator.op_type: len(operator.nodes) for operator in caught.value.operators}
    assert nodes == {"DFT": 1, "TopK": 2}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_max_pools_of_bytes(dtype: str, model, agree) -> None:
    low = np.iinfo(dtype).min
    for channels, attributes in [
        (24, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (3, {"kernel_shape": [2, 5], "ceil_mode": 1, "pads": [0, 2, 1, 2]}),
    ]:
        image = np.random.default_rng(channels).integers(low, low + 256, (2, channels, 12, 13)).astype(dtype)
        model.output(model.node("MaxPool", model.given(image), **attributes))
    (program, _) = agree(model)
    assert [program.kernels[call.kernel].family for call in program.calls()].count("max pooling") == 2
