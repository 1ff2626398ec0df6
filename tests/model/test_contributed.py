"""What onnxruntime adds to ONNX's operators, against onnxruntime.

Scales are powers of two: no rounding is ambiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.model import Graph, import_model

RNG = np.random.default_rng(0)
STEP, FINE = np.float32(2**-4), np.float32(2**-7)


def integers(*shape: int, dtype: str = "uint8") -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


def zero(value: int, dtype: str = "uint8") -> np.ndarray:
    return np.array(value, dtype)


def model(
    op_type: str, inputs: list[Any], dtype: str, *, fed: tuple[int, ...] = (0,), version: int = 17, **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and what to feed: the inputs at `fed`; the others are weights, None for one left out."""
    names = ["" if value is None else f"i{place}" for place, value in enumerate(inputs)]
    values = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True) if name}
    feeds = {names[place]: values.pop(names[place]) for place in fed}
    node = helper.make_node(op_type, names, ["y"], "node", domain="com.microsoft", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [helper.make_tensor_value_info("y", kind, [f"d{axis}" for axis in range(rank_of(op_type, inputs))])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    imports = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


def rank_of(op_type: str, inputs: list[Any]) -> int:
    return int(np.asarray(inputs[2 if op_type == "QLinearConcat" else 0]).ndim)


def assert_same(made: onnx.ModelProto, feeds: dict[str, np.ndarray], steps: int = 0) -> Graph:
    """The imported graph gives onnxruntime's answer, integers within some steps of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    (expected,) = onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, feeds)
    graph = import_model(made)
    actual = graph.run(feeds)["y"]
    assert all(not node.domain for node in graph.nodes())
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))
    else:
        assert np.abs(actual.astype(int) - expected).max() <= steps
    return graph


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_two_operands(op_type: str, dtype: str, opset: int) -> None:
    a, b = integers(2, 5, 7, dtype=dtype), integers(5, 1, dtype=dtype)
    inputs = [a, STEP, zero(3, dtype), b, FINE, zero(9, dtype), np.float32(0.5), zero(60, dtype)]
    assert_same(*model(op_type, inputs, dtype, fed=(0, 3), version=opset))


ONE_OPERAND = {
    "QLinearSigmoid": ({}, 1),
    "QLinearLeakyRelu": ({"alpha": 0.125}, 1),
    "QLinearSoftmax": ({"axis": -1, "opset": 13}, 1),
    "QLinearGlobalAveragePool": ({}, 1),
    "QLinearAveragePool": ({"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1], "ceil_mode": 1}, 1),
}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("op_type", ONE_OPERAND)
def test_one_operand(op_type: str, opset: int) -> None:
    attributes, steps = ONE_OPERAND[op_type]
    x = integers(1, 6, 9, 8)
    y_scale = np.float32(2**-8 if "S" in op_type else 2**-4)
    assert_same(
        *model(op_type, [x, STEP, zero(128), y_scale, zero(0)], "uint8", version=opset, **attributes), steps=steps
    )


@pytest.mark.parametrize(("axis", "since"), [(1, 12), (2, 11), (-1, 12), (1, 13), (0, 13)])
def test_softmax_of_either_kind(axis: int, since: int) -> None:
    x = integers(3, 4, 5)
    inputs = [x, np.float32(2**-5), zero(128), np.float32(2**-8), zero(0)]
    assert_same(*model("QLinearSoftmax", inputs, "uint8", axis=axis, opset=since), steps=1)


def test_concat() -> None:
    parts = [integers(2, 3, 4), STEP, zero(3), integers(2, 5, 4), FINE, zero(200), integers(2, 1, 4), STEP, zero(1)]
    assert_same(*model("QLinearConcat", [STEP, zero(9), *parts], "uint8", fed=(2, 8), axis=1))


def test_where() -> None:
    condition = RNG.random((4, 1)) < 0.5
    inputs = [condition, integers(4, 6), STEP, zero(3), integers(1, 6), FINE, zero(9), np.float32(0.125), zero(7)]
    assert_same(*model("QLinearWhere", inputs, "uint8", fed=(0, 1)))


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1, "alpha": 0.5}])
@pytest.mark.parametrize("per_column", [False, True])
def test_gemm(attributes: dict[str, Any], per_column: bool) -> None:
    a = integers(24, 5) if attributes.get("transA") else integers(5, 24)
    b = integers(*((7, 24) if attributes.get("transB") else (24, 7)), dtype="int8")
    steps = 2.0 ** RNG.integers(-9, -5, 7 if per_column else ())
    zeros = np.zeros(7 if per_column else (), np.int8)
    c = RNG.integers(-999, 999, 7).astype(np.int32)
    inputs = [a, STEP, zero(100), b, steps.astype(np.float32), zeros, c]
    assert_same(*model("QGemm", [*inputs, np.float32(0.5), zero(80)], "uint8", **attributes))
    assert_same(*model("QGemm", inputs, "float32", **attributes))


def test_products_with_scales() -> None:
    a, b = integers(2, 5, 24), integers(24, 7, dtype="int8")
    steps, bias = (2.0 ** RNG.integers(-9, -5, 7)).astype(np.float32), RNG.standard_normal(7).astype(np.float32)
    assert_same(*model("MatMulIntegerToFloat", [a, b, STEP, steps, zero(9), None, bias], "float32", fed=(0, 2)))
    assert_same(*model("MatMulIntegerToFloat", [a, b, STEP, FINE], "float32"))
    x = RNG.standard_normal((2, 5, 24)).astype(np.float32)
    zeros = RNG.integers(-9, 9, 7).astype(np.int8)
    assert_same(*model("DynamicQuantizeMatMul", [x, b, steps, zeros, bias], "float32"))
    assert_same(*model("DynamicQuantizeMatMul", [x, b, FINE], "float32"))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_quantization_of_more_types(dtype: str, opset: int) -> None:
    x = (RNG.standard_normal((3, 4)) * 9).astype(np.float32)
    assert_same(*model("QuantizeLinear", [x, STEP, zero(9, dtype)], dtype, version=opset))
    assert_same(
        *model("DequantizeLinear", [integers(3, 4, dtype=dtype), STEP, zero(9, dtype)], "float32", version=opset)
    )


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of some bits, the first of a byte in its lowest bits."""
    per_byte = 8 // bits
    padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % per_byte)])
    groups = padded.reshape(*padded.shape[:-1], -1, per_byte).astype(np.uint8)
    return np.bitwise_or.reduce(groups << (np.arange(per_byte) * bits).astype(np.uint8), axis=-1)


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 8]),
    inner=st.integers(1, 150),
    columns=st.integers(1, 40),
    size=st.sampled_from([16, 32, 64, 128]),
    zeros=st.booleans(),
    bias=st.booleans(),
    opset=st.sampled_from([14, 17, 21]),
)
def test_matmul_nbits(bits: int, inner: int, columns: int, size: int, zeros: bool, bias: bool, opset: int) -> None:
    rng = np.random.default_rng(inner * columns)
    blocks = -(-inner // size)
    numbers = rng.integers(0, 1 << bits, (columns, blocks, size))
    scales = rng.random((columns, blocks)).astype(np.float32)
    offsets = packed(rng.integers(0, 1 << bits, (columns, blocks)), bits) if zeros else None
    inputs = [
        rng.standard_normal((2, 3, inner)).astype(np.float32),
        packed(numbers, bits),
        scales.reshape(-1) if inner % 2 else scales,
        offsets.reshape(-1) if offsets is not None and inner % 2 else offsets,
        None,
        rng.standard_normal(columns).astype(np.float32) if bias else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"K": inner, "N": columns, "bits": bits, "block_size": size}
    graph = assert_same(*model("MatMulNBits", inputs, "float32", version=opset, **attributes))
    assert "DequantizeLinear" in {node.op for node in graph.nodes()}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_gather_block_quantized(bits: int, zeros: bool) -> None:
    """A table of bytes, which hold several numbers of the last axis."""
    scales = RNG.random((12, 3)).astype(np.float32)
    inputs = [packed(RNG.integers(0, 1 << bits, (12, 40)), bits), np.array([3, 11, 0, -1]), scales]
    if zeros:
        inputs.append(packed(RNG.integers(0, 1 << bits, (12, 3)), bits))
    attributes = {"bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    assert_same(*model("GatherBlockQuantized", inputs, "float32", fed=(1,), **attributes))


def test_weights_of_four_bits_become_bytes() -> None:
    weights = helper.make_tensor("w", TensorProto.INT4, [8, 5], RNG.integers(-8, 8, 40))
    zeros = helper.make_tensor("z", TensorProto.INT4, [2, 5], RNG.integers(-8, 8, 10))
    scales = numpy_helper.from_array(RNG.random((2, 5)).astype(np.float32), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [3, 8]), ("y", [3, 5])))
    graph = helper.make_graph(nodes, "net", [x], [y], [weights, zeros, scales])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    imported = assert_same(made, {"x": RNG.standard_normal((3, 8)).astype(np.float32)})
    assert imported.gs.nodes[0].inputs[0].dtype == np.int8


def test_what_cannot_be_said_is_listed() -> None:
    x = RNG.standard_normal((1, 16)).astype(np.float32)
    b, scales = np.zeros((4, 1, 8), np.uint8), np.ones((4, 1), np.float32)
    attributes = {"K": 16, "N": 4, "bits": 4, "block_size": 16}
    cases = {
        "an order of its groups": [x, b, scales, None, np.zeros(16, np.int32)],
        "zero points of type float32": [x, b, scales, np.zeros((4, 1), np.float32)],
    }
    for reason, inputs in cases.items():
        made, _ = model("MatMulNBits", inputs, "float32", **attributes)
        with pytest.raises(UnsupportedOperatorError, match=f"MatMulNBits .* at 'node': .*{reason}"):
            import_model(made)
    made, _ = model("MatMulNBits", [x, b, scales], "float32", fed=(0, 1), **attributes)
    with pytest.raises(UnsupportedOperatorError, match="its input 1 is computed"):
        import_model(made)


def test_in_a_branch_and_unknown_ones() -> None:
    a = integers(2, 5)
    inputs = [a, STEP, zero(3), a, STEP, zero(3), STEP, zero(3)]
    made, _ = model("QLinearAdd", inputs, "uint8")
    result = helper.make_tensor_value_info("r", TensorProto.UINT8, [2, 5])
    inner = onnx.NodeProto()
    inner.CopyFrom(made.graph.node[0])
    inner.output[:] = ["r"]
    then = helper.make_graph([inner], "then", [], [result])
    other = helper.make_graph([helper.make_node("Identity", ["i0"], ["r"])], "else", [], [result])
    del made.graph.node[:]
    made.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other))
    made.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    for condition in (True, False):
        assert_same(made, {"i0": a, "c": np.array(condition)})
    made, _ = model("QLinearReduceMean", inputs[:5], "uint8")
    with pytest.raises(UnsupportedOperatorError, match="QLinearReduceMean"):
        import_model(made)
