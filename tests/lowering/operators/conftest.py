"""Run one operator through the kernel families and through onnxruntime, and compare."""

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
from tvm.tirx import stmt

import lepton_compile.lowering  # noqa: F401  (the kernels import Layout from this package, which imports the kernels)
from lepton_compile.kernels.elementwise import elementwise
from lepton_compile.kernels.kernel import Machine, Source
from lepton_compile.kernels.row_plan import RowPlan, plan_rows, row_leaves
from lepton_compile.kernels.rows import rows
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.operators.pointwise import fill
from lepton_compile.lowering.program import PLAIN

Arrays = Sequence[np.ndarray | None]
Compare = Callable[..., list[np.ndarray]]
MACHINE = Machine(lanes=8, registers=16)
# SSE4.1 has vector instructions for floor and its like; the rest of the compiler's baseline does not matter here.
TARGET = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
PASSES = tvm.ir.transform.Sequential([tirx.transform.StmtSimplify()])


def serial(body: tirx.Stmt) -> tirx.Stmt:
    """The same loops without threads."""
    if isinstance(body, stmt.SeqStmt):
        return stmt.SeqStmt([serial(part) for part in body.seq])
    if isinstance(body, stmt.For) and body.kind == stmt.ForKind.PARALLEL:
        return stmt.For(body.loop_var, body.min, body.extent, stmt.ForKind.SERIAL, body.body)
    return body


def in_memory(array: np.ndarray) -> np.ndarray:
    """An operand as a kernel takes it: truth values are bytes."""
    return array.view(np.uint8) if array.dtype == np.bool_ else array


class Values:
    """The values of tensors, computed by as many kernels as they need."""

    def __init__(self) -> None:
        # By operation, of which each has one tensor: those of rank 0 cannot be compared.
        self.known: dict[object, np.ndarray] = {}

    def of(self, tensor: te.Tensor) -> np.ndarray:
        if tensor.op not in self.known:
            while not isinstance(plan := plan_rows(tensor, lambda each: each.op in self.known), RowPlan):
                self.of(plan)
            sources = row_leaves(plan)
            arguments = [np.ascontiguousarray(self.of(source)).reshape(source_shape(source)) for source in sources]
            places = [Source(source, PLAIN) for source in sources]
            made = rows(plan, PLAIN, places, MACHINE) if plan.stages else elementwise(tensor, PLAIN, places, MACHINE)
            function = made.function
            function = tirx.PrimFunc(function.params, serial(function.body)).with_attr("global_symbol", "kernel")
            module = tirx.build(PASSES(tvm.IRModule({"kernel": function})), TARGET)
            result = tvm.runtime.empty(source_shape(tensor), str(tensor.dtype))
            module["kernel"](*(tvm.runtime.tensor(in_memory(argument)) for argument in arguments), result)
            self.known[tensor.op] = result.numpy().reshape([int(size) for size in tensor.shape])
        return self.known[tensor.op]


def source_shape(tensor: te.Tensor) -> list[int]:
    """A scalar lies in memory as one element."""
    return [int(size) for size in tensor.shape] or [1]


def through_kernels(
    op_type: str, inputs: Arrays, attributes: dict[str, Any], constants: Collection[int], outputs: int, opset: int
) -> list[np.ndarray]:
    """The operator's value by our function and kernels."""
    operation = Operation(
        op_type,
        "node",
        attributes,
        opset,
        outputs,
        tuple(value if index in constants else None for index, value in enumerate(inputs)),
    )
    values = Values()
    tensors: list[te.Tensor | None] = []
    for index, value in enumerate(inputs):
        if value is None:
            tensors.append(None)
        elif index in constants and value.size == 1:
            tensors.append(fill(value.shape, value.ravel()[0].item(), str(value.dtype)))
        else:
            tensors.append(te.placeholder(value.shape, str(value.dtype), name=f"x{index}"))
            values.known[tensors[-1].op] = value
    results = OPERATORS[op_type](operation, *tensors)
    return [values.of(result) for result in (results if isinstance(results, tuple) else (results,))]


def through_onnxruntime(
    op_type: str, inputs: Arrays, attributes: dict[str, Any], constants: Collection[int], outputs: int, opset: int
) -> list[np.ndarray]:
    """The operator's value by onnxruntime, as a model of one node."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    given = [(index, name, inputs[index]) for index, name in enumerate(names) if name]
    results = [f"y{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, results, **attributes)],
        "single",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for index, name, value in given
            if index not in constants
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
        [onnx.numpy_helper.from_array(value, name) for index, name, value in given if index in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value for index, name, value in given if index not in constants})


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Same type, shape and places of NaN and infinities; floats within a relative tolerance, all else equal."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind == "f":
        scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * 0.1 * scale, equal_nan=True)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.fixture
def compare() -> Compare:
    """Compare one operator with onnxruntime, or with `expected`; returns our answers."""

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
        actual = through_kernels(op_type, inputs, attributes, constants, outputs, opset)
        wanted = expected or through_onnxruntime(op_type, inputs, attributes, constants, outputs, opset)
        assert len(actual) == len(wanted)
        for ours, theirs in zip(actual, wanted, strict=True):
            assert_close(ours, theirs, tolerance or (2e-3 if theirs.dtype == np.float16 else 2e-6))
        return actual

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
