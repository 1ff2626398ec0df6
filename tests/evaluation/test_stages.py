"""Inner tensors one after the other, against those of the whole graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from lowering.conftest import Model

from lepton_compile.evaluation.stages import in_stages, most_held
from lepton_compile.model import Graph, import_model


@pytest.fixture
def model() -> Model:
    """A trunk with a skip, a node of which one result is wanted and the other read later, and a captured tensor."""
    made = Model()
    x = made.input(1, 8, 6, 6)
    first = made.node("Conv", x, made.weight(8, 8, 3, 3), pads=[1] * 4, name="first")
    one, other = made.node("Split", first, outputs=2, axis=1, num_outputs=2)
    second = made.node("Conv", one, made.weight(4, 4, 1, 1), name="second")
    joined = made.node("Concat", second, other, axis=1, name="joined")
    third = made.node("Conv", made.node("Add", joined, first, name="sum"), made.weight(5, 8, 1, 1), name="third")
    made.output(made.node("Relu", third, name="relu"))
    return made


def samples(model: Model, count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {n: random.standard_normal(x.shape).astype(np.float32) for n, x in model.inputs.items()} for _ in range(count)
    ]


def names(graph: Graph) -> list[str]:
    return [node.inputs[0].name for node in graph.gs.nodes if node.op == "Conv"]


def test_values_are_those_of_the_whole_graph(model: Model) -> None:
    graph, given = import_model(model.proto()), samples(model)
    wanted = [*names(graph), graph.gs.outputs[0].name]
    assert len(wanted) == 4
    for name, values in zip(wanted, in_stages(graph, wanted, given), strict=True):
        for sample, value in zip(given, values, strict=True):
            expected = sample[name] if name in sample else graph.run(sample, [name])[name]
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_a_result_beside_one_that_is_known(model: Model) -> None:
    graph, given = import_model(model.proto()), samples(model)
    (split,) = (node for node in graph.gs.nodes if node.op == "Split")
    wanted = [tensor.name for tensor in split.outputs]
    for name, values in zip(wanted, in_stages(graph, wanted, given), strict=True):
        np.testing.assert_allclose(values[0], graph.run(given[0], [name])[name], rtol=1e-5, atol=1e-6)


def test_what_is_changed_between_stages_is_seen(model: Model) -> None:
    graph, given = import_model(model.proto()), samples(model)
    output = graph.gs.outputs[0].name
    stages = in_stages(graph, [*names(graph), output], given)
    for _ in names(graph):
        next(stages)
    third = next(node for node in graph.gs.nodes if node.name == "node_third")
    third.inputs[1] = gs.Constant("others", third.inputs[1].values * 2)
    np.testing.assert_allclose(next(stages)[0], graph.run(given[0])[output], rtol=1e-5, atol=1e-6)


def test_what_branches_read_is_held() -> None:
    model = Model()
    x = model.input(4, 5)
    inner = gs.Variable("inner", np.dtype(np.float32), (4, 5))
    made = model.node("Exp", x, name="exp")
    model.output(model.node("Abs", made, name="abs"))
    graph = import_model(model.proto())
    exp, absolute = graph.gs.nodes
    body = gs.Graph([gs.Node("Neg", "neg", {}, [exp.outputs[0]], [inner])], [], [inner], opset=graph.opset)
    other = gs.Variable("other", np.dtype(np.float32), (4, 5))
    kept = gs.Graph([gs.Node("Identity", "same", {}, [exp.outputs[0]], [other])], [], [other], opset=graph.opset)
    condition = gs.Constant("condition", np.array(True))
    made_by_branch = gs.Variable("branch", np.dtype(np.float32), (4, 5))
    branch = gs.Node("If", "if", {"then_branch": body, "else_branch": kept}, [condition], [made_by_branch])
    graph.gs.nodes.insert(1, branch)
    absolute.inputs[0] = made_by_branch
    given = samples(model)
    wanted = [exp.outputs[0].name, "branch", graph.gs.outputs[0].name]
    *_, last = in_stages(graph, wanted, given)
    np.testing.assert_allclose(last[0], np.exp(given[0][graph.gs.inputs[0].name]), rtol=1e-5)


def test_most_held(model: Model) -> None:
    """The input of the first layer, what the skip reads, and a half."""
    graph = import_model(model.proto())
    first, half = 8 * 36 * 4, 4 * 36 * 4
    tensors = names(graph)
    assert most_held(graph, tensors[:1]) == first
    assert most_held(graph, tensors) in range(first, 2 * first + half + 1)
    assert most_held(graph, []) == 0
