"""Bisection names what is wrong: a pass, a kernel, or the way they are put together."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx.parser
import pytest

import lepton_compile.evaluation.bisect as bisection
from lepton_compile import Decline, Pass, Proposal, Stage, TargetError
from lepton_compile.evaluation.bisect import bisect


@pytest.fixture
def model():
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        small (float[1,16] x, float[16,8] w) => (float[1,8] y)
        <float[8] b = {1, 2, 3, 4, 5, 6, 7, 8}, float[8] scale = {2, 3, 2, 3, 2, 3, 2, 3}>
        {
            product = MatMul(x, w)
            sum = Add(product, b)
            weights = Softmax(sum)
            scaled = Mul(weights, scale)
            y = Add(scaled, sum)
        }""")
    for node in proto.graph.node:
        node.name = f"the_{node.output[0]}"
    values = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32) * 0.1
    proto.graph.input.pop()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    return proto


@dataclass(frozen=True)
class Louder(Pass):
    """Wrong: changes a weight."""

    name: ClassVar[str] = "louder"
    stage: ClassVar[Stage] = Stage.CANONICALISE

    factor: float = 1.01

    def propose(self, graph, target, context):
        done = scale_of(graph).values.max() != 3
        return Decline("it was run already") if done else Proposal(self, "to be found")

    def run(self, graph, context):
        scale = scale_of(graph)
        scale.values = (scale.values * self.factor).astype(np.float32)
        return graph


def scale_of(graph):
    (node,) = [node for node in graph.nodes() if node.name == "the_scaled"]
    return node.inputs[1]


def test_nothing_is_wrong(model):
    finding = bisect(model)
    assert finding.culprit == ""
    assert {"sum", "y"} <= {check.tensor for check in finding.kernels}
    assert all(check.error < 1e-6 for check in finding.kernels)
    assert str(finding).startswith("nothing leaves onnxruntime's answers: ")
    assert f"{len(finding.kernels)} kernels are right" in str(finding)


def test_the_wrong_pass_is_named(model):
    finding = bisect(model, passes=["constant_folding", "dead_nodes", Louder()])
    assert (finding.culprit, finding.name, finding.kernels) == ("pass", "louder", ())
    assert "relative error" in str(finding)


def test_a_pass_that_breaks_the_graph_is_named(model):
    finding = bisect(model, passes=[Louder(factor=np.array([[1.0], [1.0]]))])
    assert (finding.culprit, finding.name) == ("pass", "louder")


def test_the_wrong_kernel_is_named(model, monkeypatch):
    def lower(*arguments):
        program = bisection_lower(*arguments)
        return replace(program, weights={key: value * 1.01 for key, value in program.weights.items()})

    bisection_lower = bisection.lower
    monkeypatch.setattr(bisection, "lower", lower)
    finding = bisect(model, inputs={"x": np.ones((1, 16), np.float32)})
    assert finding.culprit == "kernel"
    # The first whose value is wrong, though what follows it is wrong as well.
    assert finding.name == finding.kernels[0].kernel and "the_product" in finding.nodes
    assert finding.kernels[0].error == pytest.approx(0.01, rel=1e-2)
    assert finding.name in str(finding) and "'the_product'" in str(finding)


def test_right_kernels_wrongly_put_together(model, monkeypatch):
    def lower(*arguments):
        program = bisection_lower(*arguments)
        return replace(program, steps=program.steps[:-1])

    bisection_lower = bisection.lower
    monkeypatch.setattr(bisection, "lower", lower)
    finding = bisect(model)
    assert finding.culprit == "library"
    assert "and yet the library is not: output 'y'" in str(finding)


def test_an_import_that_changes_the_model(model, monkeypatch):
    def import_model(*arguments):
        return Louder(factor=2.0).run(bisection_import(*arguments), None)

    bisection_import = bisection.import_model
    monkeypatch.setattr(bisection, "import_model", import_model)
    finding = bisect(model)
    assert finding.culprit == "import"
    assert str(finding).startswith("importing the model changes its answers: output 'y'")


def test_a_foreign_target_cannot_be_traced(model):
    with pytest.raises(TargetError):
        bisect(model, "riscv64")
