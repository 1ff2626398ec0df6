import numpy as np
import pytest
from lepton_compile.passes.quantized_operators import QuantizedOperators

RNG = np.random.default_rng(0)


def numbers(*shape, dtype="int8"):
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


CONV = """
    main (uint8[1,4,6,7] x, float sx, uint8 zx, {w}, int32[6] b, float sy, uint8 zy) => (y) {{
        y = QLinearConv <pads = [1, 0, 1, 1], strides = [2, 1]> (x, sx, zx, w, sw, zw, sy, zy{b})
    }}"""
PER_CHANNEL, WHOLE = "int8[6,4,3,3] w, float[6] sw, int8[6] zw", "uint8[6,4,3,3] w, float sw, uint8 zw"


def weights(per_channel):
    dtype = "int8" if per_channel else "uint8"
    return {
        "sx": np.array(2**-5, np.float32),
        "zx": np.array(9, np.uint8),
        "w": numbers(6, 4, 3, 3, dtype=dtype),
        "sw": (2.0 ** RNG.integers(-9, -6, 6 if per_channel else ())).astype(np.float32),
        "zw": np.full(6, 0, np.int8) if per_channel else np.array(131, np.uint8),
        "b": RNG.integers(-999, 999, 6).astype(np.int32),
        "sy": np.array(0.5, np.float32),
        "zy": np.array(70, np.uint8),
    }


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_conv(rewriting, per_channel, bias):
    text = CONV.format(w=PER_CHANNEL if per_channel else WHOLE, b=bias)
    result = rewriting.rewritten(QuantizedOperators(), rewriting.graph(text, weights(per_channel)))
    names = ["DequantizeLinear"] * (3 if bias else 2) + ["Conv", "QuantizeLinear"]
    assert sorted(rewriting.operators(result)) == sorted(names)


MATMUL = """
    main ({dtype}[2,5,8] a, float sa, {dtype} za, {b}, float sy, {dtype} zy) => (y) {{
        y = QLinearMatMul (a, sa, za, b, sb, zb, sy, zy)
    }}"""


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("per_column", [False, True])
def test_matmul(rewriting, dtype, per_column):
    b = "int8[8,3] b, float[3] sb, int8[3] zb" if per_column else f"{dtype}[8,3] b, float sb, {dtype} zb"
    kind = "int8" if per_column else dtype
    constants = {
        "sa": np.array(2**-3, np.float32),
        "za": np.array(3, dtype),
        "b": numbers(8, 3, dtype=kind),
        "sb": (2.0 ** RNG.integers(-6, -3, 3 if per_column else ())).astype(np.float32),
        "zb": np.zeros(3, np.int8) if per_column else np.array(5, kind),
        "sy": np.array(1, np.float32),
        "zy": np.array(9, dtype),
    }
    graph = rewriting.graph(MATMUL.format(dtype=dtype, b=b), constants)
    result = rewriting.rewritten(QuantizedOperators(), graph)
    assert rewriting.operators(result) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]


def test_a_bias_in_steps_that_are_computed_stays(rewriting, declines):
    known = weights(True)
    del known["sx"]
    answer = declines(QuantizedOperators(), rewriting.graph(CONV.format(w=PER_CHANNEL, b=", b"), known))
    (refusal,) = answer.refusals
    assert refusal.endswith("the scales that its bias counts in are computed")
    result = rewriting.rewritten(QuantizedOperators(), rewriting.graph(CONV.format(w=PER_CHANNEL, b=""), known))
    assert "QLinearConv" not in rewriting.operators(result)


def test_nothing_to_do(rewriting, declines):
    declines(QuantizedOperators(), rewriting.graph("main (float[1,4] x) => (float[1,4] y) { y = Relu (x) }"))
