from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest

from lepton_compile.model import Graph
from lepton_compile.rewriting import Context, Decline, Pass, Proposal


class Rewriting:
    """What the tests of a pass need: a graph from text, the pass run on it, and the answer still onnxruntime's."""

    def graph(self, text: str, weights: dict[str, np.ndarray] | None = None, functions: str = "") -> Graph:
        """A graph from ONNX's textual format; `weights` are given values for inputs that the text names."""
        header = '<ir_version: 10, opset_import: ["": 21, "local": 1]>'
        model = onnx.parser.parse_model(header + text + functions)
        for name, value in (weights or {}).items():
            (entry,) = [entry for entry in model.graph.input if entry.name == name]
            model.graph.input.remove(entry)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        graph = Graph.from_model(model)
        graph.infer_shapes()
        return graph

    def proposal(self, rewrite: Pass, graph: Graph) -> Proposal | Decline:
        return rewrite.propose(graph, None, Context())  # type: ignore[arg-type]

    def rewritten(self, rewrite: Pass, graph: Graph, *, tolerance: float = 1e-5, special: bool = True) -> Graph:
        """Run the pass once; it must propose, leave the original alone, and keep every answer, NaN and infinities too.

        Args:
            rewrite: The pass.
            graph: The graph.
            tolerance: Relative error that reordered rounding may cause.
            special: Whether to feed NaN and infinities as well.
        """
        before = graph.to_model().SerializeToString(deterministic=True)
        answer = self.proposal(rewrite, graph)
        assert isinstance(answer, Proposal), answer.reason
        result = answer.rewrite.run(graph.copy(), Context())
        assert graph.to_model().SerializeToString(deterministic=True) == before
        result.check()
        result.infer_shapes()
        self.assert_same(result, graph, tolerance=tolerance, special=special)
        return result

    def assert_same(self, one: Graph, other: Graph, *, tolerance: float = 1e-5, special: bool = False) -> None:
        assert [(t.name, t.dtype, t.shape) for t in one.gs.outputs] == [
            (t.name, t.dtype, t.shape) for t in other.gs.outputs
        ]
        for seed in range(2 + special):
            inputs = self.inputs(other, seed, special=seed >= 2)
            actual, expected = one.run(inputs), other.run(inputs)
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                assert actual[name].dtype == value.dtype
                if value.dtype.kind == "f":
                    scale = np.abs(value[np.isfinite(value)]).max(initial=1e-30)
                    np.testing.assert_allclose(actual[name], value, rtol=tolerance, atol=tolerance * float(scale))
                else:
                    np.testing.assert_array_equal(actual[name], value)

    def inputs(self, graph: Graph, seed: int, *, special: bool) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        values = {}
        for tensor in graph.gs.inputs:
            dtype = np.dtype(tensor.dtype)
            if dtype.kind == "f":
                value = random.normal(size=tensor.shape).astype(dtype)
                if special and value.size > 2:
                    value.reshape(-1)[random.choice(value.size, 3, replace=False)] = [np.nan, np.inf, -np.inf]
            elif dtype.kind == "b":
                value = np.asarray(random.random(tensor.shape) < 0.5)
            else:
                value = random.integers(0, 5, tensor.shape).astype(dtype)
            values[tensor.name] = value
        return values

    def operators(self, graph: Graph) -> list[str]:
        return [node.op for node in graph.nodes()]


@pytest.fixture(scope="session")
def rewriting() -> Rewriting:
    return Rewriting()


@pytest.fixture(scope="session")
def declines(rewriting: Rewriting) -> Callable[[Pass, Graph], Decline]:
    def decline(rewrite: Pass, graph: Graph) -> Decline:
        answer = rewriting.proposal(rewrite, graph)
        assert isinstance(answer, Decline), answer.reason
        return answer

    return decline
