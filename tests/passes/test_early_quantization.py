import numpy as np
import pytest
from lepton_compile.passes.early_quantization import EarlyQuantization

WEIGHTS = {"s": np.array(0.125, np.float32), "z": np.array(9, np.uint8), "places": np.array([3, 1], np.int64)}


def text(body: str, outputs: str = "q") -> str:
    return f"main (float[1,4,6] x, float[1,4,6] y, float s, uint8 z, int64[2] places) => ({outputs}) {{ {body} }}"


def test_parts_of_a_concatenation_are_quantized_each(rewriting):
    body = "j = Concat <axis = 1> (x, y, x)  t = Transpose <perm = [0, 2, 1]> (j)  q = QuantizeLinear (t, s, z)"
    result = rewriting.rewritten(EarlyQuantization(), rewriting.graph(text(body), WEIGHTS))
    # A part that is read twice is quantized once.
    assert rewriting.operators(result) == ["QuantizeLinear", "QuantizeLinear", "Concat", "Transpose"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("t = Transpose <perm = [0, 2, 1]> (x)  q = QuantizeLinear (t, s, z)  n = Neg (t)", "q, n"),
        ("t = Transpose <perm = [0, 2, 1]> (x)  q = QuantizeLinear (t, s, z)", "q, t"),
        ("g = Gather <axis = 1> (x, places)  q = QuantizeLinear (g, s, z)", "q"),
        ("n = Neg (x)  q = QuantizeLinear (n, s, z)", "q"),
    ],
)
def test_what_is_read_otherwise_or_a_part_or_computed_stays(body, outputs, rewriting, declines):
    declines(EarlyQuantization(), rewriting.graph(text(body, outputs), WEIGHTS))
