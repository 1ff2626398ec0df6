"""Blocked arrays, comparison, and onnxruntime's answers for the tests of kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper

Array = npt.NDArray[np.float32]


def to_blocks(array: Array, block: int) -> Array:
    """An array of shape (n, c, spatial...) in blocked layout; padding lanes hold NaN, as nobody may use them."""
    n, c, *spatial = array.shape
    blocks = -(-c // block)
    padded = np.full((n, blocks * block, *spatial), np.nan, array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, blocks, block, *spatial), 2, -1))


def from_blocks(array: Array, channels: int) -> Array:
    """The inverse of `to_blocks`."""
    n, blocks, *spatial, block = array.shape
    return np.moveaxis(array, -1, 2).reshape(n, blocks * block, *spatial)[:, :channels]


def assert_close(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    """The same shape, NaN and infinities in the same places, and what is finite within a relative error in L2."""
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    wanted = expected[finite].astype(np.float64)
    error, size = np.linalg.norm(actual[finite] - wanted), np.linalg.norm(wanted)
    assert error <= tolerance * size, f"relative error {error / size}"


def onnx_node(op_type: str, *inputs: Array, **attributes: object) -> Array:
    """What onnxruntime computes for a node of one output."""
    names = [f"x{place}" for place in range(len(inputs))]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    graph = helper.make_graph([node], "node", values, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(onnx.shape_inference.infer_shapes(model).SerializeToString())
    (result,) = session.run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(result)
