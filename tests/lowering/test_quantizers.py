"""Models as onnxruntime's own quantizer of weights writes them, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from lowering.conftest import Model, difference
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import lepton_compile as lc


def embedded() -> Model:
    """A table, and products of a few of its rows."""
    model = Model()
    random = np.random.default_rng(0)
    rows = model.given(np.array([[5, 0, 77], [1, 1, 63]]))
    x = model.node("Gather", model.constant(random.standard_normal((80, 64)) / 8), rows, name="rows")
    x = model.node("Relu", model.node("MatMul", x, model.constant(random.standard_normal((64, 100)) / 8), name="up"))
    model.output(model.node("MatMul", x, model.constant(random.standard_normal((100, 36)) / 10), name="down"))
    return model


def quantized(proto: onnx.ModelProto, form: QuantFormat, bits: int, block: int, symmetric: bool) -> onnx.ModelProto:
    quantizer = MatMulNBitsQuantizer(proto, bits, block, symmetric, quant_format=form, op_types_to_quantize=OPERATORS)
    quantizer.process()
    return quantizer.model.model


OPERATORS = ("MatMul", "Gather")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize(
    ("form", "bits"), [(QuantFormat.QDQ, 4), (QuantFormat.QOperator, 4), (QuantFormat.QOperator, 8)]
)
def test_blocks(form: QuantFormat, bits: int, block: int, symmetric: bool) -> None:
    model = embedded()
    proto = quantized(model.proto(), form, bits, block, symmetric)
    assert not any(node.op_type == "MatMul" for node in proto.graph.node) or form == QuantFormat.QDQ
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, dict(model.inputs))
    compiled = lc.compile(proto, tuning="model")
    (got,) = compiled.run(model.inputs).values()
    assert difference(got, wanted) is None
    taken = [choice["taken"] for choice in compiled.manifest["choices"]]
    blocks = "" if block == 128 else f" in blocks of {block}"
    assert taken == [f"weights of {bits} bits{blocks}"] * 2
    numbers = 80 * 64 + 64 * 112 + 100 * 48
    assert compiled.manifest["memory"]["weights_bytes"] < numbers * 2
