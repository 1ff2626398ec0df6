"""Arithmetic, comparisons, logic and bits against onnxruntime: broadcasting, types, NaN."""

from __future__ import annotations

import numpy as np
import pytest

SHAPES = [
    ((3, 5, 7), (3, 5, 7)),
    ((3, 5, 7), (7,)),
    ((3, 5, 7), (5, 1)),
    ((3, 1, 7), (1, 5, 1)),
    ((), (4,)),
    ((2, 9), ()),
]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -2.5, 3.5, 0.5], np.float32)


def floats(rng, shape, dtype="float32"):
    return np.asarray(rng.standard_normal(shape) * 3, dtype)


def integers(rng, shape, dtype="int32", low=-20, high=20):
    return np.asarray(rng.integers(max(low, np.iinfo(dtype).min), high, shape), dtype)


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "LessOrEqual", "Equal"])
def test_broadcasting(compare, rng, op_type, left, right):
    compare(op_type, floats(rng, left), floats(rng, right))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8"])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_integers(compare, rng, op_type, dtype):
    if op_type in ("Div", "Add", "Sub", "Mul") and dtype in ("uint8", "int8"):
        dtype = "int64"
    a, b = integers(rng, (4, 9), dtype), integers(rng, (9,), dtype, 1)
    b[b == 0] = 3
    compare(op_type, a, b)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_extremum_of_nan(compare, op_type):
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    compare(op_type, a.copy(), b.copy())
    compare(op_type, SPECIAL, np.float32(0.25).reshape(1), constants=[1])


@pytest.mark.parametrize("op_type", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_variadic(compare, rng, op_type, count):
    compare(op_type, *(floats(rng, shape) for shape in [(3, 4), (4,), (3, 1), (1, 4)][:count]))


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_integer_modulo(compare, rng, dtype, fmod):
    b = integers(rng, (50,), dtype, -5, 6)
    b[b == 0] = 4
    compare("Mod", integers(rng, (50,), dtype), b, fmod=fmod)


def test_float_modulo(compare, rng):
    compare("Mod", floats(rng, (40,)), floats(rng, (40,)), fmod=1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, -0.5, 7.0, 1.7, -1.3, 17.0])
def test_power_by_a_constant(compare, rng, exponent):
    compare("Pow", np.abs(floats(rng, (5, 7))), np.array(exponent, np.float32), constants=[1], tolerance=5e-6)


def test_power_of_negatives_by_a_constant_integer(compare, rng):
    compare("Pow", floats(rng, (5, 7)), np.array([3.0], np.float32), constants=[1])


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        ("float32", "float32"),
        ("float32", "int64"),
        ("int32", "int32"),
        ("int32", "float32"),
        ("int64", "int64"),
        ("float64", "float64"),
    ],
)
def test_power(compare, rng, base, exponent):
    compare("Pow", np.asarray(np.abs(floats(rng, (6, 5))) + 1, base), np.asarray(rng.integers(0, 4, (5,)), exponent))


@pytest.mark.parametrize("low", [None, -1.0, np.nan])
@pytest.mark.parametrize("high", [None, 2.0])
@pytest.mark.parametrize("known", [True, False])
def test_clip(compare, low, high, known):
    limits = [None if v is None else np.array(v, np.float32) for v in (low, high)]
    compare("Clip", SPECIAL, *limits, constants=[1, 2] if known else [])


def test_clip_of_integers(compare, rng):
    compare("Clip", integers(rng, (30,), "int64"), np.array(-3, np.int64), np.array(5, np.int64))


@pytest.mark.parametrize("op_type", ["Neg", "Abs", "Sign", "Reciprocal", "Sqrt", "Floor", "Ceil", "Round"])
def test_unary(compare, rng, op_type):
    compare(op_type, np.concatenate([SPECIAL, floats(rng, 30)]))


@pytest.mark.parametrize("op_type", ["Neg", "Abs", "Sign"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "int8"])
def test_unary_of_integers(compare, rng, op_type, dtype):
    compare(op_type, integers(rng, (3, 11), dtype))


@pytest.mark.parametrize("op_type", ["Add", "Mul", "Sqrt"])
def test_half(compare, rng, op_type):
    inputs = [np.abs(floats(rng, (3, 9), "float16")) for _ in range(1 if op_type == "Sqrt" else 2)]
    compare(op_type, *inputs)


def test_where_broadcasts(compare, rng):
    compare("Where", rng.random((5, 1)) < 0.5, floats(rng, (3, 1, 7)), floats(rng, (7,)))
    compare("Where", rng.random((6,)) < 0.5, integers(rng, (6,), "int64"), integers(rng, (), "int64"))


def test_dropout_gives_a_mask_of_ones(compare, rng):
    compare("Identity", floats(rng, (3, 4)))
    compare("Dropout", floats(rng, (3, 4)), outputs=2)


@pytest.mark.parametrize("op_type", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons_with_nan(compare, op_type):
    a, b = np.meshgrid(SPECIAL, SPECIAL)
    compare(op_type, a.copy(), b.copy())


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor", "Equal"])
def test_logic(compare, rng, op_type):
    compare(op_type, rng.random((4, 1, 6)) < 0.5, rng.random((3, 1)) < 0.5)


def test_not(compare, rng):
    compare("Not", rng.random((3, 7)) < 0.5)


@pytest.mark.parametrize("op_type", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_bits(compare, rng, op_type, dtype):
    compare(op_type, integers(rng, (4, 5), dtype), integers(rng, (5,), dtype))


def test_bitwise_not(compare, rng):
    compare("BitwiseNot", integers(rng, (20,), "uint8", 0, 255))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_bit_shift(compare, rng, direction, dtype):
    compare("BitShift", integers(rng, (30,), dtype, 0, 255), integers(rng, (30,), dtype, 0, 8), direction=direction)


def test_nan_and_infinity_are_recognised(compare):
    compare("IsNaN", SPECIAL)
    for positive, negative in [(1, 1), (1, 0), (0, 1), (0, 0)]:
        compare("IsInf", SPECIAL, detect_positive=positive, detect_negative=negative)


@pytest.mark.parametrize(
    "op_type",
    ["Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"],
)
def test_transcendental(compare, rng, op_type):
    x = rng.uniform(-0.99, 0.99, (4, 37)).astype(np.float32)
    compare(op_type, np.abs(x) + 1.01 if op_type == "Acosh" else np.abs(x) if op_type == "Log" else x)


@pytest.mark.parametrize("op_type", ["Exp", "Log", "Erf", "Sin", "Cos"])
def test_transcendental_ends(compare, op_type):
    compare(op_type, np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 88.0, 89.0, -89.0, -110.0, 1e-30], np.float32))


@pytest.mark.parametrize("op_type", ["Exp", "Log", "Sin", "Cos"])
def test_transcendental_of_doubles(compare, rng, op_type):
    compare(op_type, rng.uniform(0.1, 4, (40,)), tolerance=1e-12)
