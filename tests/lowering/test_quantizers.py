"""Models as onnxruntime's own quantizer of weights writes them, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lowering.conftest import Model, difference, onnxruntimes
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import lepton_compile as lc


def embedded() -> Model:
    """A table, and products of one of its rows."""
    model = Model()
    random = np.random.default_rng(0)
    rows = model.given(np.array([77]))
    x = model.node("Gather", model.constant(random.standard_normal((80, 64)) / 8), rows, name="rows")
    x = model.node("Relu", model.node("MatMul", x, model.constant(random.standard_normal((64, 100)) / 8), name="up"))
    model.output(model.node("MatMul", x, model.constant(random.standard_normal((100, 36)) / 10), name="down"))
    return model


def quantized(proto: onnx.ModelProto, form: QuantFormat, bits: int, block: int, symmetric: bool) -> onnx.ModelProto:
    operators = ("MatMul", "Gather") if (form, bits) == (QuantFormat.QOperator, 4) else ("MatMul",)
    quantizer = MatMulNBitsQuantizer(proto, bits, block, symmetric, quant_format=form, op_types_to_quantize=operators)
    quantizer.process()
    return quantizer.model.model


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize(
    ("form", "bits"), [(QuantFormat.QDQ, 4), (QuantFormat.QOperator, 4), (QuantFormat.QOperator, 8)]
)
def test_blocks(form: QuantFormat, bits: int, block: int, symmetric: bool) -> None:
    model = embedded()
    proto = quantized(model.proto(), form, bits, block, symmetric)
    assert not any(node.op_type == "MatMul" for node in proto.graph.node) or form == QuantFormat.QDQ
    # Without its optimisations, which would make MatMulNBits of QDQ, with inputs in 8 bits.
    (wanted,) = onnxruntimes(proto, model.inputs).values()
    compiled = lc.compile(proto, tuning="model")
    (got,) = compiled.run(model.inputs).values()
    assert difference(got, wanted) is None
    taken = [choice["taken"] for choice in compiled.manifest["choices"]]
    blocks = "" if block == 128 else f" in blocks of {block}"
    assert taken == [f"weights of {bits} bits{blocks}"] * 2
    table = 80 * 64 * (1 if any(node.op_type == "GatherBlockQuantized" for node in proto.graph.node) else 4)
    padded = 64 * 112 + 112 * 48  # columns to whole vectors, rows to whole words
    each = bits / 8 + 5 / block
    assert compiled.manifest["memory"]["weights_bytes"] < table * (1 + 5 / block) + padded * each + 1000
