"""Each kernel is compared with onnxruntime on the values that it was given."""

import numpy as np
import onnx.parser
import pytest

from lepton_compile.codegen import generate
from lepton_compile.evaluation.kernels import check_kernels
from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target


@pytest.fixture(scope="module")
def traced():
    """A convolution net with blocked layouts, a concatenation that is written in parts, and a branch."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[1,3,9,9] x, bool c, float[20,3,3,3] w, float[7,20,1,1] v) => (float[1,27,7,7] y, float[1,27,7,7] z)
        {
            first = Conv(x, w)
            active = Relu(first)
            second = Conv(active, v)
            both = Concat<axis=1>(second, active)
            y = Sigmoid(both)
            z = If (c) <
                then_branch = yes () => (float[1,27,7,7] a) { a = Exp(y) },
                else_branch = no () => (float[1,27,7,7] b) { b = Neg(y) }
            >
        }""")
    random = np.random.default_rng(0)
    for entry in list(model.graph.input)[2:]:
        shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        values = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, entry.name))
        model.graph.input.remove(entry)
    graph, target = import_model(model), resolve_target("host")
    adapted, _ = adapt(graph, target)
    return graph, generate(lower(adapted, target, "net"), target)


@pytest.mark.parametrize("condition", [True, False])
def test_every_kernel_is_right(traced, condition):
    graph, library = traced
    inputs = {"x": np.random.default_rng(1).standard_normal((1, 3, 9, 9)).astype(np.float32), "c": np.array(condition)}
    checks, outputs = check_kernels(library, graph, inputs)
    assert all(check.mismatch is None and check.error <= 1e-5 for check in checks), checks
    # The outputs are always stored, the last of them by the branch that was taken.
    assert {"y", "z"} <= {check.tensor for check in checks}
    for name, value in graph.run(inputs).items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-3, atol=1e-6)


def test_tensors_come_once_and_whole(traced):
    graph, library = traced
    inputs = {"x": np.ones((1, 3, 9, 9), np.float32), "c": np.array(True)}
    checks, _ = check_kernels(library, graph, inputs)
    tensors = [check.tensor for check in checks]
    assert len(tensors) == len(set(tensors))


def test_only_the_kernel_that_differs_is_blamed(traced):
    graph, library = traced
    other = graph.copy()
    (node,) = [node for node in other.nodes() if node.op == "Conv" and node.outputs[0].name == "second"]
    node.inputs[1].values = (node.inputs[1].values * 1.001).astype(np.float32)
    inputs = {"x": np.ones((1, 3, 9, 9), np.float32), "c": np.array(True)}
    checks, _ = check_kernels(library, other, inputs)
    wrong = [check for check in checks if check.mismatch is not None]
    # What follows it is right for the values that it was given.
    assert [check.tensor for check in wrong] in (["second"], ["both"])
    assert wrong[0].mismatch.problem == "tensor" and 1e-5 < wrong[0].error < 2e-3
