"""Binding of input shapes, and static shapes everywhere."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lepton_compile.errors import ModelError, ShapeError
from lepton_compile.model import import_model
from lepton_compile.model.shapes import is_static, variables


def two_inputs(*shapes):
    """Relu of each input, whose shapes are given as ONNX writes them."""
    graph = helper.make_graph(
        [helper.make_node("Relu", [f"x{i}"], [f"y{i}"]) for i in range(len(shapes))],
        "g",
        [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)],
        [
            helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None if shape is None else [None] * len(shape))
            for i, shape in enumerate(shapes)
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def input_shapes(graph):
    return [tensor.shape for tensor in graph.gs.inputs]


def test_a_name_is_bound_everywhere():
    graph = import_model(two_inputs(["batch", 3], [2, "batch"]), {"x0": [5, 3]})
    assert input_shapes(graph) == [(5, 3), (2, 5)]
    assert graph.gs.outputs[1].shape == (2, 5)


@pytest.mark.parametrize("anonymous", ["?", "-1", None, -1, 0])
def test_dimensions_without_a_name_are_not_the_same(anonymous):
    model = two_inputs([anonymous, 3], [anonymous, 3])
    with pytest.raises(ShapeError, match="axis 0 of 'x1'"):
        import_model(model, {"x0": [5, 3]})
    graph = import_model(model, {"x0": [5, 3], "x1": [7, 3]})
    assert input_shapes(graph) == [(5, 3), (7, 3)]


def test_unbound_dimensions_say_how_to_bind_them():
    with pytest.raises(ShapeError) as error:
        import_model(two_inputs(["batch", 3, None], [4]))
    text = str(error.value)
    assert "axis 0 of 'x0' ('batch')" in text and "axis 2 of 'x0'" in text and "x1" not in text
    assert 'shapes={"x0": [N, 3, H]}' in text and "--shape x0=N,3,H" in text
    assert error.value.inputs == ("x0",) and "\n" not in text


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"image": [1, 3]}, r"no input 'image': did you mean|no input 'image': its inputs are 'x0', 'x1'"),
        ({"x00": [1, 3]}, "did you mean 'x0'"),
        ({"x0": [1, 3, 4]}, "has 2 dimensions"),
        ({"x0": [1, 4]}, "axis 1 of input 'x0' is 3"),
        ({"x0": [0, 3]}, "positive"),
        ({"x0": [-1, 3]}, "positive"),
        ({"x0": ["n", 3]}, "whole numbers"),
        ({"x0": [1.5, 3]}, "whole numbers"),
        ({"x0": [2, 3], "x1": [4]}, "'batch' is 2 in input 'x0' but 4 in input 'x1'"),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    with pytest.raises(ShapeError, match=words) as error:
        import_model(two_inputs(["batch", 3], ["batch"]), shapes)
    assert "\n" not in str(error.value)


def test_an_input_of_unknown_rank():
    model = two_inputs([2])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.input[0].type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
    assert import_model(model).gs.inputs[0].shape == ()  # an empty shape is a scalar's


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_flattening_by_shape_arithmetic_disappears(n, h, w):
    """Shape, Gather, Unsqueeze, Concat and Reshape: what exporters write for `x.view(x.shape[0], -1)`."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
        g (float[n, h, w] x) => (float[a, b] y) <int64 zero = {0}, int64[1] axes = {0}, int64[1] rest = {-1}> {
            shape = Shape (x)
            first = Gather <axis = 0> (shape, zero)
            lifted = Unsqueeze (first, axes)
            wanted = Concat <axis = 0> (lifted, rest)
            y = Reshape (x, wanted)
        }""")
    graph = import_model(model, {"x": [n, h, w]})
    assert [node.op for node in graph.nodes()] == ["Reshape"]
    assert graph.gs.outputs[0].shape == (n, h * w)
    x = np.random.default_rng(0).standard_normal((n, h, w)).astype(np.float32)
    np.testing.assert_array_equal(graph.run({"x": x})["y"], x.reshape(n, -1))


def test_shapes_that_depend_on_the_data(parse):
    with pytest.raises(ShapeError, match=r"'y'.*\(NonZero\).*depends on the data") as error:
        import_model(parse("g (float[4] x) => (int64[1, n] y) { [where] y = NonZero (x) }"))
    assert error.value.node == "where" and error.value.tensor == "y"


def test_branches_with_different_shapes(parse):
    model = parse("""g (bool c, float[1, 4] x) => (float[n, m] y) {
        [choice] y = If (c) <then_branch = a () => (float[n, m] p) { p = Identity (x) },
                             else_branch = b () => (float[n, m] q) { q = Transpose (x) }>
    }""")
    with pytest.raises(ShapeError, match=r"'choice' \(If\).*branch taken: \[1, 4\] and \[4, 1\]"):
        import_model(model)


def test_what_is_bound_must_fit_the_operators(parse):
    model = parse("g (float[n, 3] x, float[m, 4] w) => (float[a, b] y) { [product] y = MatMul (x, w) }")
    with pytest.raises(ShapeError, match="node 'product'"):
        import_model(model, {"x": [1, 3], "w": [4, 4]})


def test_reshapes_keep_the_number_of_elements(parse):
    """ONNX's own inference takes the target's word for it."""
    model = parse("g (float[n, 3] x) => (float[2, 3] y) <int64[2] s = {2, 3}> { [view] y = Reshape (x, s) }")
    assert import_model(model, {"x": [2, 3]}).gs.outputs[0].shape == (2, 3)
    with pytest.raises(ShapeError, match=r"'view' \(Reshape\): \[4, 3\] cannot become \[2, 3\]"):
        import_model(model, {"x": [4, 3]})


@pytest.mark.parametrize(("op", "weight", "channels"), [("Conv", [6, 2, 1, 1], 4), ("ConvTranspose", [4, 6, 1, 1], 4)])
def test_convolutions_have_the_channels_of_their_input(parse, op, weight, channels):
    text = f"g (float[1, c, 5, 5] x, float{weight} w) => (float[n, m, h, l] y) {{ [conv] y = {op} <group = 2> (x, w) }}"
    assert import_model(parse(text), {"x": [1, channels, 5, 5]}).gs.outputs[0].shape[2:] == (5, 5)
    with pytest.raises(ShapeError, match=f"'conv' .{op}.: the weight .* is for {channels} channels, not 6"):
        import_model(parse(text), {"x": [1, 6, 5, 5]})


def test_declared_inner_and_output_shapes_do_not_count(parse):
    """Exporters leave the shapes of the size that they traced; the inputs decide."""
    model = parse("g (float[n, 3] x) => (float[7, 3] y) <float[7, 3] t> { t = Relu (x) y = Neg (t) }")
    graph = import_model(model, {"x": [2, 3]})
    assert {tensor.name: tensor.shape for tensor in variables(graph.gs)} == {"t": (2, 3), "y": (2, 3)}


def test_loops_whose_shapes_may_change_are_refused(parse):
    model = parse("""g (int64 n, float[1] x) => (float[k] y) <bool go = {1}> {
        [repeat] y = Loop (n, go, x) <body = b (int64 i, bool g, float[k] v) => (bool h, float[m] u) {
            h = Identity (g) u = Concat <axis = 0> (v, v)
        }>
    }""")
    with pytest.raises(ShapeError, match="'repeat'"):
        import_model(model)


def test_scan_bodies_have_static_shapes(parse):
    model = parse("""g (float[2] s, float[5, 2] x) => (float[2] f, float[5, 2] y) {
        f, y = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] e) => (float[2] o, float[2] p) {
            o = Add (a, e) p = Identity (o)
        }> (s, x)
    }""")
    graph = import_model(model)
    assert all(is_static(tensor.shape) and tensor.dtype is not None for tensor in variables(graph.gs))
    x = np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(graph.run({"s": x[0], "x": x})["y"], np.cumsum(x, axis=0) + 1)


def test_types_that_do_not_fit_are_model_errors(parse):
    with pytest.raises(ModelError):
        import_model(parse("g (float[2] x) => (float[2] y) { y = Where (x, x, x) }"))


def test_half_and_integer_inputs(parse):
    graph = import_model(
        parse("g (float16[2] x, int64[2] k) => (float16[2] y) { h = Cast <to = 10> (k) y = Add (x, h) }")
    )
    feed = {"x": np.array([0.5, 1], np.float16), "k": np.array([1, 2])}
    np.testing.assert_array_equal(graph.run(feed)["y"], np.array([1.5, 3], np.float16))
