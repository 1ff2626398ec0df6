"""Run one operator through its tensor expression and through onnxruntime, and compare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import te, tirx

from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.operators.pointwise import fill

Arrays = Sequence[np.ndarray | None]
Compare = Callable[..., list[np.ndarray]]


def copy_of(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i), name="copy")


def through_tensor_expressions(
    op_type: str, inputs: Arrays, attributes: dict[str, Any], constants: Collection[int], outputs: int, opset: int
) -> list[np.ndarray]:
    """The operator's value by our function, built by TVM's plain loops."""
    operation = Operation(
        op_type,
        "node",
        attributes,
        opset,
        outputs,
        tuple(value if index in constants else None for index, value in enumerate(inputs)),
    )
    tensors, placeholders, arguments = [], [], []
    for index, value in enumerate(inputs):
        if value is None:
            tensors.append(None)
        elif index in constants and value.size == 1:
            tensors.append(fill(value.shape, value.ravel()[0].item(), str(value.dtype)))
        else:
            tensors.append(te.placeholder(value.shape, str(value.dtype), name=f"x{index}"))
            placeholders.append(tensors[-1])
            arguments.append(tvm.runtime.tensor(np.ascontiguousarray(value)))
    results = OPERATORS[op_type](operation, *tensors)
    results = list(results) if isinstance(results, tuple) else [results]
    # An operator may hand an input through; a function needs an output of its own.
    results = [copy_of(r) for r in results]
    function = tirx.build(te.create_prim_func([*placeholders, *results]), tvm.target.Target("llvm"))
    answers = [
        tvm.runtime.empty([int(size) for size in r.shape], str(r.dtype), device=tvm.runtime.device("cpu"))
        for r in results
    ]
    function(*arguments, *answers)
    return [answer.numpy() for answer in answers]


def through_onnxruntime(
    op_type: str, inputs: Arrays, attributes: dict[str, Any], constants: Collection[int], outputs: int, opset: int
) -> list[np.ndarray]:
    """The operator's value by onnxruntime, as a model of one node."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    given = [(name, value) for name, value in zip(names, inputs, strict=True) if value is not None]
    results = [f"y{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, results, **attributes)],
        "single",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for index, (name, value) in enumerate(given)
            if names.index(name) not in constants
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
        [onnx.numpy_helper.from_array(value, name) for name, value in given if names.index(name) in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value for name, value in given if names.index(name) not in constants})


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Same type, shape and places of NaN and infinities; floats within a relative tolerance, all else equal."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind == "f":
        scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
        np.testing.assert_allclose(
            actual, expected, rtol=tolerance, atol=tolerance * 1e-1 * float(scale), equal_nan=True
        )
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.fixture
def compare() -> Compare:
    """Compare one operator with onnxruntime; returns our answers."""

    def run(
        op_type: str,
        *inputs: np.ndarray | None,
        constants: Collection[int] = (),
        outputs: int = 1,
        opset: int = 21,
        tolerance: float | None = None,
        expected: Sequence[np.ndarray] | None = None,
        **attributes: Any,
    ) -> list[np.ndarray]:
        actual = through_tensor_expressions(op_type, inputs, attributes, constants, outputs, opset)
        wanted = expected or through_onnxruntime(op_type, inputs, attributes, constants, outputs, opset)
        assert len(actual) == len(wanted)
        for ours, theirs in zip(actual, wanted, strict=True):
            half = theirs.dtype == np.float16
            assert_close(ours, theirs, tolerance or (2e-3 if half else 2e-6))
        return actual

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
