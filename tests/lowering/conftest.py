"""Small models through the compiler, and through onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from lepton_compile.codegen import generate
from lepton_compile.lowering import Program, lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.runtime.loader import CompiledModel
from lepton_compile.target import Target, resolve_target

Array = np.ndarray[Any, Any]
Agree = Callable[..., list[Program]]

FLOAT_TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


class Model:
    """An ONNX model in the making: each method gives the name of a tensor, or adds to the graph.

    With a parent it is the body of a branch.
    """

    def __init__(self, parent: Model | None = None) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._outputs: list[str] = []
        self._inputs: dict[str, Array] = {} if parent is None else parent._inputs
        self._names: list[str] = [] if parent is None else parent._names

    def _new(self, prefix: str) -> str:
        self._names.append(f"{prefix}{len(self._names)}")
        return self._names[-1]

    def input(self, *shape: int, dtype: str = "float32") -> str:
        """An input of random values."""
        rng = np.random.default_rng(len(self._inputs))
        if np.dtype(dtype).kind == "f":
            return self.given(rng.standard_normal(shape).astype(dtype))
        return self.given(rng.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype))

    def given(self, value: Array) -> str:
        """An input of these values."""
        name = self._new("x")
        self._inputs[name] = np.asarray(value)
        return name

    def constant(self, value: Any, dtype: str = "float32") -> str:
        """An initializer of these values."""
        name = self._new("c")
        self._constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, dtype: str = "float32") -> str:
        """An initializer of random values."""
        values = np.random.default_rng(len(self._names)).standard_normal(shape) * 0.5
        return self.constant(values if np.dtype(dtype).kind == "f" else np.round(values * 8), dtype)

    def node(self, op_type: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        """The output of a node; several are a list."""
        made = [name] if name else [self._new(op_type) for _ in range(outputs)]
        self._nodes.append(helper.make_node(op_type, inputs, made, name=f"node_{made[0]}", **attributes))
        return made[0] if outputs == 1 else made

    def output(self, *names: str) -> None:
        """Make tensors outputs."""
        self._outputs += names

    def branch(self, condition: str, then: Model, otherwise: Model) -> Any:
        """The outputs of an If."""
        return self.node(
            "If",
            condition,
            outputs=len(then._outputs),
            then_branch=then.graph("then"),
            else_branch=otherwise.graph("else"),
        )

    def graph(self, name: str) -> onnx.GraphProto:
        """What was made so far as a graph."""
        known = {each.name: helper.make_tensor_type_proto(each.data_type, each.dims) for each in self._constants}
        outputs = [onnx.ValueInfoProto(name=each, type=known.get(each)) for each in self._outputs]
        return helper.make_graph(self._nodes, name, [], outputs, self._constants)

    def proto(self, opset: int = 21) -> onnx.ModelProto:
        """The model."""
        graph = self.graph("model")
        graph.input.extend(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self._inputs.items()
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        assert all(output.type.WhichOneof("value") for output in model.graph.output)
        return model

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The values of the inputs."""
        return self._inputs


@pytest.fixture(scope="session")
def host() -> Target:
    return resolve_target("host")


@pytest.fixture
def model() -> Model:
    return Model()


def onnxruntimes(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """onnxruntime's answers to the model as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def references(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The answers of ONNX's reference implementation, for what onnxruntime lacks."""
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(names, dict(inputs)), strict=True))


def difference(actual: Array, expected: Array) -> str | None:
    """What is wrong with an answer."""
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
    if expected.dtype.kind != "f":
        return None if np.array_equal(actual, expected) else f"{np.sum(actual != expected)} of {actual.size} differ"
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True) or not np.isfinite(actual[finite]).all():
        return "NaN or infinities in other places"
    a, b = actual[finite].astype(np.float64), expected[finite].astype(np.float64)
    error, bound = float(np.linalg.norm(a - b)), FLOAT_TOLERANCE[expected.dtype.name] * float(np.linalg.norm(b))
    return None if error <= bound else f"relative error {error / np.linalg.norm(b)}"


@pytest.fixture
def agree(host: Target) -> Agree:
    """Compile a model as it is and after the passes, and hold both to onnxruntime; returns the two programs.

    `reference`: to ONNX's reference implementation instead; `options`: of `lower`.
    """

    def check(
        model: Model,
        *,
        target: Target = host,
        passes: Sequence[bool] = (False, True),
        opset: int = 21,
        reference: bool = False,
        **options: bool,
    ) -> list[Program]:
        proto = model.proto(opset)
        wanted = (references if reference else onnxruntimes)(proto, model.inputs)
        programs = []
        for adapted in passes:
            graph = import_model(proto)
            if adapted:
                graph, _ = adapt(graph, target)
            programs.append(lower(graph, target, "model", **options))
            library = generate(programs[-1], target)
            compiled = CompiledModel(library.folder, keep=library)
            for _ in range(2):  # what one run leaves behind must not matter to the next
                got = compiled.run(model.inputs)
            assert list(got) == list(wanted)
            wrong = {name: difference(got[name], wanted[name]) for name in wanted}
            wrong = {name: problem for name, problem in wrong.items() if problem}
            assert not wrong, f"{'after the passes' if adapted else 'as it is'}: {wrong}"
        return programs

    return check
