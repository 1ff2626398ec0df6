import numpy as np
import pytest
from lepton_compile.passes.cancelling_quantizations import CancellingQuantizations
from lepton_compile.passes.quantized_movement import QuantizedMovement

MOVING = {
    "transpose": "m = Transpose <perm = [0, 2, 3, 1]> (d)",
    "pool": "m = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (d)",
    "concat": "m = Concat <axis = 1> (d, d)",
    "resize": "m = Resize <mode = 'nearest'> (d, , factors)",
    "flatten": "m = Flatten (d)",
    "gather": "m = Gather <axis = 1> (d, places)",
}


def text(moving: str, scale: str = "s") -> str:
    return f"""
    main (uint8[1,4,4,4] q, float s, float t, uint8 z, float[4] factors, int64[2] places) => (y) {{
        d = DequantizeLinear (q, s, z)
        {moving}
        y = QuantizeLinear (m, {scale}, z)
    }}"""


WEIGHTS = {
    "s": np.array(0.1, np.float32),
    "t": np.array(0.2, np.float32),
    "z": np.array(7, np.uint8),
    "factors": np.array([1, 1, 2, 2], np.float32),
    "places": np.array([3, 1], np.int64),
}


@pytest.mark.parametrize("moving", MOVING)
def test_integers_are_moved_and_nothing_is_quantized_again(rewriting, moving):
    graph = rewriting.graph(text(MOVING[moving].replace("'", '"')), WEIGHTS)
    result = rewriting.rewritten(QuantizedMovement(), graph)
    (operator,) = set(rewriting.operators(result)) - {"QuantizeLinear", "DequantizeLinear"}
    assert rewriting.operators(result) == [operator, "DequantizeLinear", "QuantizeLinear"]
    assert rewriting.operators(rewriting.rewritten(CancellingQuantizations(), result)) == [operator]


def test_another_scale_is_quantized_again(rewriting, declines):
    graph = rewriting.graph(text(MOVING["transpose"], "t"), WEIGHTS)
    result = rewriting.rewritten(QuantizedMovement(), graph)
    declines(CancellingQuantizations(), result)


def test_scales_that_differ_are_not_brought_together(rewriting, declines):
    moving = "e = DequantizeLinear (q, t, z)  m = Concat <axis = 1> (d, e)"
    declines(QuantizedMovement(), rewriting.graph(text(moving), WEIGHTS))


def test_computing_is_no_moving(rewriting, declines):
    for moving in ("m = Relu (d)", "m = AveragePool <kernel_shape = [2, 2]> (d)"):
        declines(QuantizedMovement(), rewriting.graph(text(moving), WEIGHTS))


def test_several_results_and_a_reader_that_stays(rewriting):
    graph = rewriting.graph(
        """
        main (int8[4,6] q, float s) => (float[2,6] a, float[2,6] b, float[4,6] c) {
            d = DequantizeLinear (q, s)
            a, b = Split <axis = 0, num_outputs = 2> (d)
            c = Exp (d)
        }""",
        {"s": WEIGHTS["s"]},
    )
    result = rewriting.rewritten(QuantizedMovement(), graph)
    assert rewriting.operators(result).count("DequantizeLinear") == 3


def test_wider_integers_stay(rewriting, declines):
    graph = rewriting.graph(
        """
        main (int16[4,6] q, float s) => (float[6,4] a) {
            d = DequantizeLinear (q, s)
            a = Transpose (d)
        }""",
        {"s": WEIGHTS["s"]},
    )
    declines(QuantizedMovement(), graph)


def test_a_chain_is_moved_at_once(rewriting, declines):
    moving = " ".join(f"m{i} = Transpose <perm = [0, 1, 3, 2]> ({'d' if i == 0 else f'm{i - 1}'})" for i in range(50))
    graph = rewriting.graph(text(moving + " m = Flatten (m49)"), WEIGHTS)
    declines(QuantizedMovement(), rewriting.rewritten(QuantizedMovement(), graph))


@pytest.mark.parametrize("moving", ["transpose", "concat", "flatten", "gather"])
def test_bfloat16_is_moved_and_not_rounded_again(rewriting, moving):
    graph = rewriting.graph(
        f"""
        main (float[1,4,4,4] x, int64[2] places) => (y) {{
            q = Cast <to = 16> (x)
            d = Cast <to = 1> (q)
            {MOVING[moving]}
            n = Cast <to = 16> (m)
            y = Cast <to = 1> (n)
        }}""",
        {"places": WEIGHTS["places"]},
    )
    result = rewriting.rewritten(QuantizedMovement(), graph)
    (operator,) = set(rewriting.operators(result)) - {"Cast"}
    assert rewriting.operators(result) == ["Cast", operator, "Cast", "Cast", "Cast"]
    cancelled = rewriting.rewritten(CancellingQuantizations(), result)
    assert rewriting.operators(cancelled) == ["Cast", operator, "Cast"]


@pytest.mark.parametrize("moving", ["pool", "resize"])
def test_what_onnxruntime_has_no_bfloat16_for_stays_in_float32(rewriting, declines, moving):
    text = f"""
    main (float[1,4,4,4] x, float[4] factors) => (y) {{
        q = Cast <to = 16> (x)
        d = Cast <to = 1> (q)
        {MOVING[moving].replace("'", '"')}
        y = Relu (m)
    }}"""
    declines(QuantizedMovement(), rewriting.graph(text, {"factors": WEIGHTS["factors"]}))
