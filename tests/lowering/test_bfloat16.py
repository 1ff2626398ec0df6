"""Convolutions and products of bfloat16 numbers, written as Casts around their operands, against onnxruntime.

Products of such numbers are exact in float32, so that only the order of the sums differs. Each model holds many, one
per output.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target

WITH_INSTRUCTION = {"extends": "x86-64-v4-vnni", "cpu": {"features": ["+avx512bf16"]}}

CONVOLUTIONS = {
    "plain": ((1, 16, 9, 10), (20, 16, 3, 3), {}),
    "border": ((1, 32, 9, 10), (48, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((2, 18, 9, 10), (16, 18, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 2]}),
    "pixels": ((1, 24, 7, 7), (40, 24, 1, 1), {}),
    "all_border": ((1, 8, 3, 2), (18, 8, 5, 5), {"pads": [2, 2, 2, 2]}),
    "dilated": ((1, 20, 14, 14), (16, 20, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    "groups": ((1, 64, 6, 7), (32, 32, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "line": ((1, 10, 50), (12, 10, 5), {"pads": [4, 0]}),
    "volume": ((1, 8, 4, 5, 6), (9, 8, 2, 3, 3), {"pads": [0, 1, 1, 1, 1, 1]}),
}
IN_FLOAT32 = {
    "few": ((1, 3, 30, 31), (16, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "odd": ((1, 33, 6, 7), (16, 33, 3, 3), {"pads": [1, 1, 1, 1]}),
    "odd_groups": ((1, 12, 6, 7), (36, 4, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((1, 24, 8, 7), (24, 1, 3, 3), {"group": 24, "pads": [1, 1, 1, 1]}),
}
PRODUCTS = {
    "matrix": ((20, 64), (64, 48)),
    "batch": ((2, 3, 9, 32), (32, 17)),
    "vector": ((1, 128), (128, 100)),
    "odd": ((7, 65), (65, 40)),
    "one": ((5, 1), (1, 33)),
    "heads": ((2, 3, 9, 32), (2, 3, 32, 17)),
    "broadcast": ((3, 9, 7), (2, 1, 7, 20)),
    "left_broadcast": ((9, 7), (2, 3, 7, 20)),
}


def rounded(model, value: str) -> str:
    """A value as bfloat16 has it, in float32."""
    narrow = model.node("Cast", value, to=TensorProto.BFLOAT16)
    return str(model.node("Cast", narrow, to=TensorProto.FLOAT))


def known(model, *shape: int, seed: int = 0) -> str:
    """Known numbers that bfloat16 has."""
    values = np.random.default_rng([*shape, seed]).standard_normal(shape, np.float32)
    return str(model.constant(values.astype(ml_dtypes.bfloat16).astype(np.float32)))


def convolved(model, case: tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]) -> str:
    shape, kernel, attributes = case
    bias = model.weight(kernel[0])
    return str(model.node("Conv", rounded(model, model.input(*shape)), known(model, *kernel), bias, **attributes))


def families(program) -> list[str]:
    """The kernel family of every call."""
    return [program.kernels[call.kernel].family for call in program.calls()]


def lowered(model, target):
    """The program of a model after the passes."""
    target = resolve_target(target)
    graph, _ = adapt(import_model(model.proto()), target)
    return lower(graph, target, "model")


def test_convolutions(model, agree) -> None:
    for name, case in (CONVOLUTIONS | IN_FLOAT32).items():
        value = convolved(model, case)
        model.output(model.node("Relu", value) if len(name) % 2 else value)
    agree(model)


def test_which_convolutions_are_sums_of_pairs(model) -> None:
    """Each is one kernel, but for few channels, an odd number of them, and groups that are no whole vectors."""
    for case in (CONVOLUTIONS | IN_FLOAT32).values():
        model.output(convolved(model, case))
    program = lowered(model, WITH_INSTRUCTION)
    assert families(program).count("bfloat16 convolution") == len(CONVOLUTIONS)
    (depthwise,) = [call for call in program.calls() if program.kernels[call.kernel].family == "depthwise"]
    assert program.buffers[depthwise.arguments[0]].dtype == "bfloat16"


def test_products_with_known_matrices(model, agree) -> None:
    for left, right in PRODUCTS.values():
        value = model.node("MatMul", rounded(model, model.input(*left)), known(model, *right))
        model.output(model.node("Add", value, model.weight(right[-1])))
    for attributes in ({}, {"transB": 1}, {"transB": 1, "alpha": 0.5, "beta": 2.0}, {"transA": 1}):
        shape = (50, 33) if attributes.get("transB") else (33, 50)
        left = (33, 7) if attributes.get("transA") else (7, 33)
        x = rounded(model, model.input(*left))
        model.output(model.node("Gemm", x, known(model, *shape), model.weight(50), **attributes))
    agree(model)


def test_products_of_computed_matrices(model, agree) -> None:
    for left, right in PRODUCTS.values():
        operands = (rounded(model, model.input(*shape)) for shape in (left, right))
        model.output(model.node("MatMul", *operands))
    agree(model)


def test_which_products_are_sums_of_pairs(model) -> None:
    for left, right in PRODUCTS.values():
        x = rounded(model, model.input(*left))
        model.output(model.node("MatMul", x, known(model, *right)))
        model.output(model.node("MatMul", x, rounded(model, model.input(*right))))
    assert families(lowered(model, WITH_INSTRUCTION)).count("bfloat16 matmul") == 2 * len(PRODUCTS)


def test_other_numbers_are_multiplied_in_float32(model, agree) -> None:
    """Weights, or a computed operand, that bfloat16 does not have."""
    x = rounded(model, model.input(9, 32))
    model.output(model.node("MatMul", x, model.weight(32, 20)))
    model.output(model.node("MatMul", x, model.input(32, 20)))
    model.output(model.node("MatMul", model.input(9, 32), known(model, 32, 20)))
    assert not any("bfloat16" in family for family in families(lowered(model, WITH_INSTRUCTION)))
    agree(model)


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4-vnni", "cortex-a76"])
def test_processors_without_the_instruction_compute_in_float32(name: str, model, agree) -> None:
    target = resolve_target(name)
    for case in (*CONVOLUTIONS.values(), IN_FLOAT32["few"]):
        model.output(convolved(model, case))
    for left, right in PRODUCTS.values():
        model.output(model.node("MatMul", rounded(model, model.input(*left)), rounded(model, model.input(*right))))
    assert not any("bfloat16" in family for family in families(lowered(model, target)))
    if target.is_host_compatible():
        agree(model, target=target, passes=[True])


def test_padding_may_hold_anything(model, agree) -> None:
    """The lanes behind the last channel hold infinity here: what they are weighted with is zero."""
    values = model.node("Conv", model.input(1, 16, 5, 5), model.weight(18, 16, 1, 1))
    x = rounded(model, model.node("Reciprocal", values))
    model.output(model.node("Conv", x, known(model, 20, 18, 3, 3), pads=[1, 1, 1, 1]))
    matrix = np.ones((3, 7), np.float32)
    matrix[1, 6] = np.inf
    model.output(model.node("MatMul", rounded(model, model.given(matrix)), known(model, 7, 5)))
    agree(model)


def attention(model, batch: int, heads: int, length: int, width: int) -> str:
    """Attention as an export spells it, rounded where it is computed."""

    def projected(x: str) -> str:
        value = model.node("MatMul", x, known(model, heads * width, heads * width, seed=len(model.inputs)))
        value = rounded(model, model.node("Add", value, model.weight(heads * width)))
        split = model.node("Reshape", value, model.constant([0, 0, heads, width], "int64"))
        return str(model.node("Transpose", split, perm=[0, 2, 1, 3]))

    x = rounded(model, model.input(batch, length, heads * width))
    query, key, value = projected(x), projected(x), projected(x)
    scores = model.node("MatMul", query, model.node("Transpose", key, perm=[0, 1, 3, 2]))
    weights = model.node("Softmax", model.node("Mul", scores, model.constant(width**-0.5)), axis=-1)
    mixed = model.node("MatMul", rounded(model, weights), value)
    return str(model.node("Transpose", mixed, perm=[0, 2, 1, 3]))


def test_attention_reads_bfloat16(model, agree) -> None:
    """Each product reads what was rounded where it was computed, heads where they are."""
    model.output(attention(model, 1, 3, 9, 32))
    program = lowered(model, WITH_INSTRUCTION)
    products = [call for call in program.calls() if program.kernels[call.kernel].family == "bfloat16 matmul"]
    assert len(products) == 5
    assert all(program.buffers[call.arguments[0]].dtype == "bfloat16" for call in products)
    (softmax,) = [call for call in program.calls() if program.kernels[call.kernel].family == "rows"]
    assert program.buffers[softmax.arguments[-1]].dtype == "bfloat16"
    # Rounding the model's input, and packing the keys and the values; nothing else is moved or converted.
    assert families(program).count("elementwise") <= 4
    agree(model)


def test_a_residual_and_a_normalisation_keep_bfloat16(model, agree) -> None:
    x = rounded(model, model.input(2, 9, 32))
    value = model.node("Relu", model.node("Add", model.node("MatMul", x, known(model, 32, 32)), model.weight(32)))
    added = model.node("Add", model.node("MatMul", rounded(model, value), known(model, 32, 32, seed=1)), x)
    scaled = model.node("LayerNormalization", added, model.weight(32), model.weight(32), axis=-1)
    model.output(model.node("MatMul", rounded(model, scaled), known(model, 32, 48)))
    program = lowered(model, WITH_INSTRUCTION)
    assert families(program) == ["elementwise", "bfloat16 matmul", "bfloat16 matmul", "rows", "bfloat16 matmul"]
    agree(model)


def small(model, *shape: int) -> str:
    """Quarters of small integers, whose products float32 adds up exactly: sums in any order are rounded alike."""
    rng = np.random.default_rng([*shape, len(model.inputs)])
    return str(rounded(model, model.given((rng.integers(-8, 9, shape) / 4).astype(np.float32))))


def small_weights(model, *shape: int) -> str:
    return str(model.constant(np.random.default_rng(shape).integers(-8, 9, shape) / 4))


RANDOM = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RANDOM
@given(data=st.data())
def test_random_products(model, agree, data) -> None:
    draw, model = data.draw, type(model)()
    for _ in range(4):
        batch = draw(st.lists(st.integers(1, 3), max_size=2))
        rows, inner, columns = draw(st.integers(1, 40)), draw(st.integers(1, 70)), draw(st.integers(1, 70))
        right = [*batch, inner, columns] if draw(st.booleans()) else [inner, columns]
        other = small_weights(model, *right) if draw(st.booleans()) else small(model, *right)
        value = model.node("MatMul", small(model, *batch, rows, inner), other)
        model.output(rounded(model, model.node("Relu", value)) if draw(st.booleans()) else value)
    agree(model, passes=[True])


@RANDOM
@given(data=st.data())
def test_random_convolutions(model, agree, data) -> None:
    draw, model = data.draw, type(model)()
    for _ in range(3):
        inputs, outputs, taps = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
        image = small(model, draw(st.integers(1, 2)), inputs, draw(st.integers(3, 9)), draw(st.integers(3, 9)))
        attributes = {"pads": [draw(st.integers(0, 1)) for _ in range(4)], "strides": [draw(st.integers(1, 2))] * 2}
        value = model.node("Conv", image, small_weights(model, outputs, inputs, taps, taps), **attributes)
        # Where float32 is computed with, minimal filtering rounds its sums.
        rounds = taps == 1 and draw(st.booleans())
        model.output(rounded(model, model.node("Relu", value)) if rounds else value)
    agree(model, passes=[True])
