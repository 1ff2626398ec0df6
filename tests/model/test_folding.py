"""Constant folding: what goes, what stays, and that the answers do not change."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.model import Graph, import_model
from lepton_compile.model.folding import fold_constants, remove_dead_nodes


def ops(graph):
    return [node.op for node in graph.nodes()]


def read(model):
    graph = Graph.from_model(model)
    graph.infer_shapes(strict=False)
    return graph


def test_chains_fold_and_are_counted(parse):
    graph = read(
        parse("""g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> {
        s = Add (a, b) t = Mul (s, s) u = Neg (t) y = Add (x, u)
    }""")
    )
    assert fold_constants(graph) == 3
    assert ops(graph) == ["Add"]
    np.testing.assert_array_equal(graph.run({"x": np.zeros(2, np.float32)})["y"], [-16, -36])
    assert fold_constants(graph) == 0


def test_constant_outputs_keep_their_names_behind_an_identity(parse):
    graph = import_model(parse("g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Add (w, w) }"))
    assert [tensor.name for tensor in graph.gs.outputs] == ["y", "w"]
    assert ops(graph) == ["Identity", "Identity"]
    assert all(isinstance(node.inputs[0], gs.Constant) for node in graph.nodes())
    got = graph.run({"x": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(got["y"], [2, 4])
    np.testing.assert_array_equal(got["w"], [1, 2])
    assert fold_constants(graph) == 0


def test_shape_and_size_of_variables_fold(parse):
    graph = read(
        parse("""g (float[2, 3, 4] x) => (int64[2] s, int64 n, int64[3] t) {
        s = Shape <start = 1> (x) n = Size (x) r = Relu (x) t = Shape <start = -9, end = 9> (r)
    }""")
    )
    assert fold_constants(graph) == 3
    got = graph.run({"x": np.zeros((2, 3, 4), np.float32)})
    assert got["s"].tolist() == [3, 4] and got["n"] == 24 and got["t"].tolist() == [2, 3, 4]
    assert set(ops(graph)) == {"Identity"}


def test_nodes_with_several_outputs_fold(parse):
    graph = read(
        parse("""g (float[2] x) => (float[2] y, float[2] b) <float[4] w = {1, 2, 3, 4}> {
        a, b = Split <axis = 0, num_outputs = 2> (w) y = Add (x, a)
    }""")
    )
    assert fold_constants(graph) == 1
    got = graph.run({"x": np.zeros(2, np.float32)})
    assert got["y"].tolist() == [1, 2] and got["b"].tolist() == [3, 4]


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_operators_stay(parse, op):
    graph = read(parse(f"g (float[2] x) => (float[2] y) <float[2] w = {{0.5, 0.5}}> {{ r = {op} (w) y = Add (x, r) }}"))
    assert fold_constants(graph) == 0
    assert ops(graph) == [op, "Add"]


def test_quantized_weights_stay_quantized(parse):
    model = parse("""g (float[2] x) => (float[2] y, float[2] z)
        <float[2] w = {1, 2}, float s = {0.5}, int8 p = {0}, int8[2] q = {3, 4}> {
        a = QuantizeLinear (w, s, p) b = DequantizeLinear (a, s, p) y = Add (x, b)
        c = DequantizeLinear (q, s, p) z = Add (x, c)
    }""")
    graph = read(model)
    assert fold_constants(graph) == 0
    assert ops(graph).count("DequantizeLinear") == 2


def test_small_tensors_are_not_blown_up(parse):
    text = "g (float[1] x) => (float[n, m] y) <int64[2] s = {8192, 4096}, float one = {1}> { e = %s y = Add (x, e) }"
    graph = read(parse(text % "Expand (one, s)"))
    assert fold_constants(graph) == 0 and ops(graph) == ["Expand", "Add"]
    graph = read(parse(text % "ConstantOfShape (s)"))  # 128 MB, but a weight as the light models have them
    assert fold_constants(graph) == 1 and ops(graph) == ["Add"]


def test_integer_division_by_zero_stays(parse):
    """It would end the process."""
    graph = read(
        parse(
            """g (int64[1] x) => (int64[1] y) <int64[1] a = {1}, int64[1] z = {0}, int64[1] m = {-1}> {
        d = Div (a, z) e = Mod (a, z) f = Div (a, m) s = Sum (x, d, e, f) y = Identity (s)
    }""".replace("Sum (x, d, e, f)", "Concat <axis = 0> (x, d, e, f)").replace("int64[1] y", "int64[4] y")
        )
    )
    assert fold_constants(graph) == 0


def test_what_onnxruntime_refuses_stays_and_the_rest_folds(parse):
    graph = read(
        parse("""g (float[1] x) => (float[1] y) <float[2] w = {1, 2}, int64[1] i = {7}, float[1] b = {1}> {
        bad = Gather <axis = 0> (w, i) good = Add (b, b) t = Add (bad, good) y = Add (x, t)
    }""")
    )
    assert fold_constants(graph) == 1
    assert ops(graph) == ["Gather", "Add", "Add"]


def test_calls_of_functions_stay(parse):
    graph = read(
        parse(
            "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = lepton.F (w) y = Add (x, t) }",
            functions='<domain: "lepton", opset_import: ["": 21]> F (a) => (b) { b = Neg (a) }',
            imports=', "lepton": 1',
        )
    )
    assert fold_constants(graph) == 0
    assert graph.gs.nodes[0].outputs[0].shape == (2,)


@pytest.mark.parametrize(("flag", "expected"), [(1, 3.0), (0, -1.0)])
def test_an_if_with_a_known_condition_is_inlined(parse, flag, expected):
    graph = read(
        parse(f"""g (float[2] x) => (float[2] y) <bool c = {{{flag}}}, float[2] two = {{2, 2}}> {{
        y = If (c) <then_branch = a () => (float[2] p) {{ t = Add (x, two) p = Identity (t) }},
                    else_branch = b () => (float[2] q) {{ t = Neg (x) q = Identity (t) }}>
    }}""")
    )
    assert fold_constants(graph) == 1
    assert "If" not in ops(graph)
    np.testing.assert_array_equal(graph.run({"x": np.ones(2, np.float32)})["y"], [expected] * 2)


def test_an_inlined_branch_may_give_one_tensor_twice(parse):
    graph = read(
        parse("""g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}> {
        u, v = If (c) <then_branch = a () => (float[2] p, float[2] p) { p = Neg (x) },
                       else_branch = b () => (float[2] q, float[2] q) { q = Abs (x) }>
        y = Relu (u) z = Relu (v)
    }""")
    )
    fold_constants(graph)
    got = graph.run({"x": -np.ones(2, np.float32)})
    assert got["y"].tolist() == [1, 1] and got["z"].tolist() == [1, 1]


def test_a_nested_if_is_inlined_where_only_the_outer_one_depends_on_the_input(parse):
    """The squeeze that exporters guard by the rank or the size of the tensor."""
    graph = import_model(
        parse("""g (bool c, float[n, 3] x) => (float[k] y) <int64 one = {1}, int64 zero = {0}> {
        y = If (c) <then_branch = a () => (float[k] p) {
            s = Shape (x) d = Gather (s, zero) e = Equal (d, one)
            p = If (e) <then_branch = a2 () => (float[k] p2) { p2 = Squeeze (x) },
                        else_branch = b2 () => (float[k, l] q2) { q2 = Identity (x) }>
        }, else_branch = b () => (float[k] q) <int64[1] m = {-1}> { q = Reshape (x, m) }>
    }"""),
        {"x": [1, 3]},
    )
    assert ops(graph).count("If") == 1
    assert set(ops(graph)) == {"If", "Squeeze", "Reshape"}
    x = np.array([[1, 2, 3]], np.float32)
    for condition in (True, False):
        assert graph.run({"c": np.array(condition), "x": x})["y"].tolist() == [1, 2, 3]


def test_folding_inside_branches_uses_outer_constants(parse):
    graph = read(
        parse("""g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = a () => (float[2] p) { t = Add (w, w) p = Add (x, t) },
                    else_branch = b () => (float[2] q) { q = Neg (w) }>
    }""")
    )
    assert fold_constants(graph) == 2
    assert sorted(ops(graph)) == ["Add", "Identity", "If"]
    feed = {"x": np.zeros(2, np.float32)}
    assert graph.run({**feed, "c": np.array(True)})["y"].tolist() == [2, 4]
    assert graph.run({**feed, "c": np.array(False)})["y"].tolist() == [-1, -2]


def test_dead_nodes_go_with_what_only_they_read(parse):
    graph = read(
        parse("""g (bool c, float[2] x) => (float[2] y) {
        a = Neg (x) b = Abs (a)
        u = Exp (x)
        d = If (c) <then_branch = t () => (float[2] p) { p = Identity (u) },
                    else_branch = e () => (float[2] q) { q = Identity (u) }>
        y = Relu (x)
    }""")
    )
    assert remove_dead_nodes(graph) == 4
    assert ops(graph) == ["Relu"]
    assert [tensor.name for tensor in graph.gs.inputs] == ["c", "x"]
    assert len(graph.gs.inputs[1].outputs) == 1


def test_dead_nodes_inside_live_branches_go(parse):
    graph = read(
        parse("""g (bool c, float[2] x) => (float[2] y) {
        u = Exp (x)
        y = If (c) <then_branch = t () => (float[2] p) { dead = Neg (u) p = Abs (x) },
                    else_branch = e () => (float[2] q) { q = Identity (x) }>
    }""")
    )
    assert remove_dead_nodes(graph) == 2
    assert ops(graph) == ["If", "Abs", "Identity"]


def test_names_stay_unique_while_folding(parse):
    """The constant behind an output takes no name that is there already."""
    graph = import_model(
        parse("""g (float[2] y_value) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        y = Neg (w) z = Neg (y_value)
    }""")
    )
    assert [tensor.name for tensor in graph.gs.inputs] == ["y_value"]
    assert graph.run({"y_value": np.ones(2, np.float32)})["y"].tolist() == [-1, -2]


def test_large_weights_fold_without_being_serialised():
    """A transposed weight of 16 MB: it reaches onnxruntime as an input."""
    weight = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["x", "t"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2048])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2048])],
        [numpy_helper.from_array(weight, "w")],
    )
    imported = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    assert ops(imported) == ["MatMul"]
    np.testing.assert_array_equal(imported.large_weights()["t"], weight.T)
    assert imported.to_model(weights=False).ByteSize() < 1000
    assert onnx.checker.check_model(imported.to_model(weights=False)) is None


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "windows"),
    [(9, 2, 3, 0, 3), (7, 2, 2, 0, 4), (8, 3, 3, 0, 3), (5, 2, 4, 1, 2), (9, 2, 3, 1, 4)],
)
def test_ceil_mode_counts_windows_as_onnxruntime_does(op, size, kernel, stride, pads, windows):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, size, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    pool = helper.make_node(
        op, ["x"], ["y"], kernel_shape=[kernel, 3], strides=[stride, 2], pads=[pads, 0, pads, 0], ceil_mode=1
    )
    graph = helper.make_graph([pool], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 2, size, 6)).astype(np.float32)}
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    imported = import_model(model)
    assert tuple(imported.gs.outputs[0].shape) == expected.shape
    assert expected.shape[2] == windows
    np.testing.assert_array_equal(imported.run(inputs)["y"], expected)
