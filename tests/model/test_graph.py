"""The graph between passes: in and out of ONNX, copies, views."""

import subprocess
import sys

import networkx
import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper

from lepton_compile.errors import ModelError
from lepton_compile.model import Graph, import_model

BRANCHES = """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    [outer] r = Relu (x)
    [choice] s = If (c) <then_branch = a () => (float[2] out) { [add] t = Add (r, w) [last] out = Neg (t) },
                         else_branch = b () => (float[2] out) { [add] t = Mul (r, w) [last] out = Abs (t) }>
    y = Sub (s, w)
}"""


def feed(condition=True):
    return {"c": np.array(condition), "x": np.array([1, -1], np.float32)}


def test_round_trip_of_branches_with_captures(parse):
    model = parse(BRANCHES)
    graph = Graph.from_model(model)
    again = Graph.from_model(graph.to_model())
    for condition in (True, False):
        want = onnx.reference.ReferenceEvaluator(model).run(None, feed(condition))[0]
        np.testing.assert_array_equal(graph.run(feed(condition))["y"], want)
        np.testing.assert_array_equal(again.run(feed(condition))["y"], want)
    assert again.to_model().SerializeToString() == graph.to_model().SerializeToString()


def test_names_are_unique_over_subgraphs(parse):
    graph = Graph.from_model(parse(BRANCHES))
    names = [node.name for node in graph.nodes()]
    assert len(set(names)) == len(names) and all(names)
    tensors = [tensor.name for node in graph.nodes() for tensor in node.outputs]
    assert len(set(tensors)) == len(tensors)
    assert {"outer", "choice", "add", "last"} <= set(names)


def test_outer_constants_are_shared_and_written_once(parse):
    graph = Graph.from_model(parse(BRANCHES))
    found = {id(tensor) for node in graph.nodes() for tensor in node.inputs if tensor.name == "w"}
    assert len(found) == 1
    assert [tensor.name for tensor in graph.to_model().graph.initializer] == ["w"]
    copy = graph.copy()
    assert len({id(tensor) for node in copy.nodes() for tensor in node.inputs if tensor.name == "w"}) == 1


def test_copies_are_independent(parse):
    graph = import_model(parse(BRANCHES))
    before = graph.to_model().SerializeToString()
    copy = graph.copy()
    assert copy.to_model().SerializeToString() == before
    for node in copy.nodes():
        node.name = f"{node.name}_changed"
        node.attrs["axis"] = 3
        for tensor in (*node.inputs, *node.outputs):
            tensor.name = f"{tensor.name}_changed"
    copy.gs.nodes.clear()
    copy.metadata["a"] = "b"
    assert graph.to_model().SerializeToString() == before
    (original,) = {id(t.values) for node in graph.nodes() for t in node.inputs if t.name == "w"}
    (shared,) = {id(t.values) for node in graph.copy().nodes() for t in node.inputs if t.name == "w"}
    assert original == shared


def test_metadata_and_documentation_survive(parse):
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=12)
    helper.set_model_props(model, {"stride": "32", "names": "{0: 'person'}"})
    model.doc_string, model.domain, model.model_version = "what it is", "org.example", 7
    model.producer_name, model.graph.doc_string = "somebody", "the graph"
    model.training_info.add()
    written = import_model(model).to_model()
    assert {entry.key: entry.value for entry in written.metadata_props} == {"stride": "32", "names": "{0: 'person'}"}
    assert (written.doc_string, written.domain, written.model_version) == ("what it is", "org.example", 7)
    assert import_model(model).copy().to_model() == written
    assert not written.training_info


def test_functions_survive_and_shapes_pass_through_them(parse):
    model = parse(
        "g (float[2, 3] x) => (float[n, m] y) { t = lepton.Outer_1 (x) y = Relu (t) }",
        functions="""<domain: "lepton", opset_import: ["": 21, "lepton": 1]> Outer_1 (a) => (c) {
                b = lepton.Inner_1 (a) one = Constant <value = float {1}> () c = Add (b, one) }
            <domain: "lepton", opset_import: ["": 21]> Inner_1 (a) => (b) { b = Transpose (a) }""",
        imports=', "lepton": 1',
    )
    graph = Graph.from_model(model)
    graph.infer_shapes()
    graph.check()
    assert graph.gs.outputs[0].shape == (3, 2)
    assert [function.name for function in graph.gs.functions] == ["Outer_1", "Inner_1"]
    assert [node.op for node in graph.gs.functions[0].nodes] == ["Inner_1", "Add"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    copy = graph.copy()
    assert copy.gs.functions[0].nodes[0] is not graph.gs.functions[0].nodes[0]
    for each in (graph, copy, Graph.from_model(graph.to_model())):
        np.testing.assert_array_equal(each.run({"x": x})["y"], x.T + 1)
        assert each.to_model().SerializeToString() == graph.to_model().SerializeToString()


def test_any_tensor_of_the_main_graph_can_be_asked_for(parse):
    graph = import_model(parse(BRANCHES))
    got = graph.run(feed(), ["r", "y"])
    assert list(got) == ["r", "y"] and got["r"].tolist() == [1, 0]
    with pytest.raises(ModelError, match="onnxruntime"):
        graph.run({"x": np.zeros(3, np.float32)})


def test_the_networkx_view(parse):
    view = import_model(parse(BRANCHES)).networkx()
    assert list(networkx.topological_sort(view)) == ["outer", "choice", "Sub_y"]
    assert view.nodes["outer"]["op"] == "Relu"
    captured = view.get_edge_data("outer", "choice")
    assert [edge["index"] for edge in captured.values()] == [-1]
    assert view.get_edge_data("choice", "Sub_y")[0] == {"tensor": "s", "index": 0}


def test_a_node_that_reads_a_tensor_twice_has_two_edges(parse):
    view = import_model(parse("g (float[2] x) => (float[2] y) { [a] t = Neg (x) [b] y = Mul (t, t) }")).networkx()
    assert sorted(edge["index"] for edge in view.get_edge_data("a", "b").values()) == [0, 1]


def test_an_output_that_is_an_input_keeps_its_name():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    relu = helper.make_node("Relu", ["x"], ["y"])
    outputs = [value, helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    model = helper.make_model(
        helper.make_graph([relu], "g", [value], outputs), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    graph = import_model(model)
    assert [tensor.name for tensor in graph.gs.outputs] == ["x", "y"]
    assert graph.run({"x": -np.ones(2, np.float32)})["x"].tolist() == [-1, -1]


def test_attributes_of_every_kind_survive(parse):
    model = parse("""g (float[1, 1, 8] x, int64[1] n) => (float[1, 1, 8] y, float[1, 1, 6] z, int64[k] w) {
        y = LeakyRelu <alpha = 0.5> (x)
        z = MaxPool <kernel_shape = [3], auto_pad = "VALID", ceil_mode = 1> (x)
        w = ConstantOfShape <value = int64[1] {7}> (n)
    }""")
    want = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in model.graph.node]
    written = Graph.from_model(Graph.from_model(model).to_model()).to_model()
    got = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in written.graph.node]
    assert got[:2] == want[:2]
    assert onnx.numpy_helper.to_array(got[2]["value"]).tolist() == [7]


@pytest.mark.parametrize("scales", [[], [1], [1.0]])
def test_lists_are_written_with_the_type_of_the_schema(parse, scales):
    """Neither an empty list nor one of whole numbers shows that floats are meant."""
    graph = Graph.from_model(parse("g (float[2] x) => (float[2] y) { y = Upsample <scales = [1.0]> (x) }", opset=7))
    graph.gs.nodes[0].attrs["scales"] = scales
    (attribute,) = graph.to_model().graph.node[0].attribute
    assert attribute.type == onnx.AttributeProto.FLOATS and list(attribute.floats) == scales


def test_the_same_bytes_whatever_the_hash_seed(parse, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(parse(BRANCHES, imports=', "ai.onnx.ml": 3, "zoo": 1, "abc": 2').SerializeToString())
    program = (
        "import hashlib, sys; from lepton_compile.model import import_model;"
        "data = import_model(sys.argv[1]).to_model().SerializeToString(deterministic=True);"
        "print(hashlib.sha256(data).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize("opset", range(7, 25))
def test_every_operator_set_gives_the_same_answer(parse, opset):
    """Softmax changed its meaning with version 13, BatchNormalization its form with 9 and 14, Clip with 11."""
    model = parse(
        """g (float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3] a = {1, 2, 3}, float[3] b = {0.5, 0.5, 2}> {
            n = BatchNormalization <epsilon = 0.001> (x, a, b, b, a)
            s = Softmax <axis = 1> (n)
            y = LeakyRelu <alpha = 0.25> (s)
        }""",
        opset=opset,
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    graph = import_model(model)
    assert graph.opset == max(opset, 21)
    session = onnx.reference.ReferenceEvaluator(model) if opset > 21 else None
    want = session.run(None, {"x": x})[0] if session else Graph.from_model(model).run({"x": x})["y"]
    np.testing.assert_allclose(graph.run({"x": x})["y"], want, rtol=1e-5, atol=1e-6)
