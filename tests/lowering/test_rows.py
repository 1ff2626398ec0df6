"""Which kernels reductions get: one with all that shares their rows, or one of their own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto

from lepton_compile.lowering.program import Program


def families(program: Program) -> Counter[str]:
    return Counter(program.kernels[call.kernel].family for call in program.calls())


def test_layer_normalization_with_its_neighbours(model, agree) -> None:
    x, y = model.input(3, 7, 50), model.input(3, 7, 50)
    normalised = model.node("LayerNormalization", model.node("Add", x, y), model.weight(50), model.weight(50))
    model.output(model.node("Gelu", normalised))
    plain, fused = agree(model)
    assert families(plain) == {"elementwise": 2, "rows": 1}
    assert families(fused) == {"rows": 1}


def test_layer_normalization_spelled_out(model, agree) -> None:
    x = model.input(4, 6, 33)
    last = model.constant([-1], "int64")
    centred = model.node("Sub", x, model.node("ReduceMean", x, last))
    variance = model.node("ReduceMean", model.node("Mul", centred, centred), last)
    deviation = model.node("Sqrt", model.node("Add", variance, model.constant(1e-5)))
    model.output(model.node("Mul", model.node("Div", centred, deviation), model.weight(33)))
    assert families(agree(model)[1]) == {"rows": 1}


def test_softmax_of_a_convolution_stays_blocked(model, agree) -> None:
    """The channels are the row; the last block has padding lanes, which hold whatever the convolution left there."""
    x = model.node("Conv", model.input(1, 3, 9, 9), model.weight(21, 3, 3, 3))
    model.output(model.node("Conv", model.node("Softmax", x, axis=1), model.weight(5, 21, 1, 1)))
    assert families(agree(model)[1])["rows"] == 1


def test_instance_normalization_of_a_convolution(model, agree) -> None:
    x = model.node("Conv", model.input(2, 3, 9, 9), model.weight(21, 3, 3, 3))
    x = model.node("Relu", model.node("InstanceNormalization", x, model.weight(21), model.weight(21)))
    model.output(model.node("Conv", x, model.weight(5, 21, 1, 1)))
    assert families(agree(model)[1])["rows"] == 1


def test_squeeze_and_excitation_stays_in_the_epilogue(model, agree) -> None:
    """The gate is of another tensor than the convolution that it multiplies."""
    x = model.input(1, 16, 9, 9)
    gate = model.node("Sigmoid", model.node("ReduceMean", x, model.constant([2, 3], "int64")))
    model.output(model.node("Mul", model.node("Conv", x, model.weight(16, 16, 1, 1)), gate))
    assert "elementwise" not in families(agree(model)[1])


def test_rows_of_two_lengths(model, agree) -> None:
    """The mean of everything is shared by the rows, so it is computed before them."""
    x = model.input(5, 40)
    whole = model.node("ReduceMean", x, model.constant([0, 1], "int64"))
    row = model.node("ReduceMax", x, model.constant([1], "int64"))
    model.output(model.node("Div", model.node("Sub", x, whole), row))
    _, fused = agree(model)
    assert families(fused) == {"reduction": 1, "rows": 1}


@pytest.mark.parametrize("shape", [(2, 3, 10, 16), (1, 4, 33, 20)], ids=str)
def test_attention_reads_heads_where_they_are(shape: tuple[int, ...], model, agree) -> None:
    batch, heads, length, width = shape
    mask = model.given(np.arange(length) % 3 > 0)
    q, k, v = (
        model.node("Transpose", model.input(batch, length, heads, width), perm=order)
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = model.node("Div", model.node("MatMul", q, k), model.constant(width**0.5))
    chosen = model.node("Where", mask, scores, model.constant(-1e9))
    model.output(model.node("MatMul", model.node("Softmax", chosen), v))
    _, fused = agree(model)
    assert families(fused) == {"matmul": 2, "rows": 1, "elementwise": 2}, "two products, softmax, and K and V packed"


def test_softmax_of_another_type(model, agree) -> None:
    """Exponentials are kept aside, as the result cannot hold them; but for rows that are too long for that."""
    for shape, axis in (((3, 5, 37), -1), ((3, 5, 37), 1), ((2, 3, 64), -1), ((2, 16, 3, 40), 1), ((2, 6000), -1)):
        model.output(model.node("Cast", model.node("Softmax", model.input(*shape), axis=axis), to=TensorProto.FLOAT16))
    x = model.node("Conv", model.input(1, 3, 9, 9), model.weight(21, 3, 3, 3))
    model.output(model.node("Cast", model.node("Softmax", x, axis=1), to=TensorProto.FLOAT16))
    assert families(agree(model)[1])["rows"] == 6
