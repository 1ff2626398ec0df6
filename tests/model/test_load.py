"""Reading models, and refusing what is none."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.errors import ModelError, UnsupportedOperatorError
from lepton_compile.model import import_model


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and text == text.strip()
    return text


def big_model(rng=None):
    """A MatMul with a weight that is large enough to leave the protobuf."""
    weight = (rng or np.random.default_rng(0)).standard_normal((64, 64), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, weight


def external(model, location, **entries):
    """Point the weight of `big_model` to a file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize("form", ["path", "text", "bytes", "proto"])
def test_every_source_gives_the_same_graph(tmp_path, form):
    model, weight = big_model()
    before = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(before)
    source = {"path": path, "text": str(path), "bytes": before, "proto": model}[form]
    graph = import_model(source)
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(graph.run({"x": x})["y"], x @ weight, rtol=1e-4, atol=1e-5)
    assert [tensor.name for tensor in graph.gs.inputs] == ["x"]
    assert model.SerializeToString() == before


def test_external_data_are_read(tmp_path):
    model, weight = big_model()
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="sub.bin", size_threshold=0)
    graph = import_model(tmp_path / "model.onnx")
    np.testing.assert_array_equal(graph.large_weights()["w"], weight)


def test_external_data_inside_a_subgraph_are_read(tmp_path, parse):
    model = parse("""g (bool c, float[3] x) => (float[3] y) {
        y = If (c) <then_branch = a () => (float[3] p) <float[3] w = {1, 2, 3}> { p = Add (x, w) },
                    else_branch = b () => (float[3] q) { q = Identity (x) }>
    }""")
    (tmp_path / "w.bin").write_bytes(np.array([4, 5, 6], np.float32).tobytes())
    tensor = model.graph.node[0].attribute[0].g.initializer[0]
    del tensor.float_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = import_model(tmp_path / "m.onnx")
    feed = {"c": np.array(True), "x": np.zeros(3, np.float32)}
    np.testing.assert_array_equal(graph.run(feed)["y"], [4, 5, 6])


@pytest.mark.parametrize(
    ("location", "entries", "words"),
    [
        ("absent.bin", {}, ["'w'", "missing", "absent.bin"]),
        ("/etc/hostname", {}, ["'w'", "/etc/hostname", "own folder"]),
        ("../weights.bin", {}, ["'w'", "../weights.bin", "own folder"]),
        ("sub/../../weights.bin", {}, ["own folder"]),
        ("", {}, ["'w'", "own folder"]),
        (".", {}, ["missing"]),
        ("link.bin", {}, ["'w'", "link", "own folder"]),
        ("linked/weights.bin", {}, ["'w'", "link", "own folder"]),
        ("short.bin", {}, ["'w'", "16384", "only 100"]),
        ("weights.bin", {"length": 12}, ["'w'", "do not fit"]),
        ("weights.bin", {"offset": 8}, ["only 16384"]),
        ("weights.bin", {"offset": "x"}, ["'w'"]),
    ],
)
def test_external_data_that_are_not_to_be_had(tmp_path, location, entries, words):
    folder = tmp_path / "model"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    data = np.zeros(64 * 64, np.float32).tobytes()
    for path in (tmp_path / "weights.bin", tmp_path / "elsewhere" / "weights.bin", folder / "weights.bin"):
        path.write_bytes(data)
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "model.onnx").write_bytes(external(big_model()[0], location, **entries).SerializeToString())
    with pytest.raises(ModelError) as error:
        import_model(folder / "model.onnx")
    for word in words:
        assert word in one_line(error)


def test_external_data_need_a_path(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(np.zeros(64 * 64, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)  # where onnx itself would find them
    with pytest.raises(ModelError, match="give the model's path"):
        import_model(external(big_model()[0], "w.bin"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"not a model at all, just text", "not ONNX"), (b"\x08\x0a", "no graph")],
)
def test_files_that_are_no_models(tmp_path, content, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as error:
        import_model(path)
    one_line(error)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        import_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        import_model(tmp_path)


def test_truncated_at_any_byte(parse):
    """Whatever is cut off, the answer is a LeptonError or a model: never another exception."""
    whole = parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Mul (x, w) y = Relu (t) }")
    data = whole.SerializeToString()
    refused = 0
    for size in range(len(data)):
        try:
            import_model(data[:size])
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(data) * 0.8


def test_all_unknown_operators_are_listed(parse):
    model = parse(
        """g (float[2] x) => (float[2] z) {
            [first] a = com.acme.Magic (x)
            [second] b = com.acme.Magic (a)
            [third] y = NoSuchOperator (b)
            z = com.other.Trick (y)
        }""",
        imports=', "com.acme": 3',
    )
    with pytest.raises(UnsupportedOperatorError) as error:
        import_model(model)
    found = [(o.domain, o.op_type, o.version, o.nodes) for o in error.value.operators]
    assert found == [
        ("com.acme", "Magic", 3, ("first", "second")),
        ("", "NoSuchOperator", 21, ("third",)),
        ("com.other", "Trick", 0, ("z",)),
    ]
    for word in ("com.acme.Magic", "'first', 'second'", "ai.onnx.NoSuchOperator", "com.other.Trick", "'z'"):
        assert word in one_line(error)


def test_unknown_operators_in_branches_and_functions_are_found(parse):
    model = parse(
        """g (bool c, float[2] x) => (float[2] z) {
            y = If (c) <then_branch = a () => (float[2] p) { p = com.acme.Deep (x) },
                        else_branch = b () => (float[2] q) { q = Identity (x) }>
            z = local.F (y)
        }""",
        functions='<domain: "local", opset_import: ["": 21, "com.acme": 1]> F (x) => (y) { y = com.acme.Deeper (x) }',
        imports=', "local": 1, "com.acme": 1',
    )
    with pytest.raises(UnsupportedOperatorError) as error:
        import_model(model)
    assert [operator.op_type for operator in error.value.operators] == ["Deep", "Deeper"]


def test_an_output_that_is_given_twice(parse):
    """onnxruntime takes it, but answers by name, and a header's fields, can hold one of them only."""
    with pytest.raises(ModelError, match="the model has two outputs that are both called 'y'"):
        import_model(parse("g (float[2] x) => (float[2] y, float[2] y) { y = Relu (x) }"))


def test_operators_that_onnx_dropped(parse):
    model = parse("g (float[2] x) => (float[2] y) <float[1] s = {1}> { [up] y = Upsample (x, s) }")
    with pytest.raises(UnsupportedOperatorError, match=r"Upsample .version 21. at 'up': ONNX dropped it"):
        import_model(model)
    assert import_model(parse("g (float[2] x) => (float[2] y) <float[1] s = {1}> { y = Upsample (x, s) }", opset=9))


def test_both_names_of_onnx_s_own_domain():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["ai.onnx" : 13]>
        g (float[2] x) => (float[2] y) { y = ai.onnx.Relu (x) }""")
    graph = import_model(model)
    assert graph.opset == 21 and [node.domain for node in graph.nodes()] == [None]


def test_functions_of_the_model_are_inlined(parse):
    model = parse(
        "g (float[2] x) => (float[2] z) { y = local.Twice (x) z = local.Twice (y) }",
        functions="""<domain: "local", opset_import: ["": 21, "local": 1]> Twice (a) => (b) { b = local.Sum (a, a) }
            <domain: "local", opset_import: ["": 21]> Sum (a, b) => (c) { c = Add (a, b) }""",
        imports=', "local": 1',
    )
    graph = import_model(model)
    assert [node.op for node in graph.nodes()] == ["Add", "Add"] and not graph.gs.functions
    np.testing.assert_array_equal(graph.run({"x": np.array([1, 2], np.float32)})["z"], [4, 8])


def test_checker_failures_are_model_errors(parse):
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (nobody) }")
    with pytest.raises(ModelError, match=r"not valid ONNX.*nobody") as error:
        import_model(model)
    one_line(error)


def test_operators_that_contradict_their_types(parse):
    model = parse("g (float[2] x, int64[2] k) => (float[2] y) { [sum] y = Add (x, k) }")
    with pytest.raises(ModelError, match="node 'sum'") as error:
        import_model(model)
    one_line(error)


def test_an_operator_set_from_the_future(parse):
    with pytest.raises(ModelError, match="operator set 999") as error:
        import_model(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=999))
    assert error.value.opset == 999


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])), "a sequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])), "optional"),
        (helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, [2])), "a map"),
        (helper.make_tensor_type_proto(TensorProto.STRING, [2]), "text"),
    ],
)
def test_only_tensors_of_numbers_go_in(kind, words):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", kind)],
        [helper.make_value_info("y", kind)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(ModelError, match=f"input 'x'.*{words}"):
        import_model(model)


def test_sequences_inside_are_refused(parse):
    model = parse(
        "g (float[2] x) => (float[4] y) { s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s) }"
    )
    with pytest.raises(ModelError, match=r"'s'.*SequenceConstruct.*only tensors"):
        import_model(model)


@pytest.mark.parametrize("size", [4, 4096])
def test_initializers_that_are_inputs_are_constants(size):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in ("w", "x")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size])],
        [numpy_helper.from_array(np.full(size, 3, np.float32), "w")],
    )
    imported = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3))
    assert [tensor.name for tensor in imported.gs.inputs] == ["x"]
    np.testing.assert_array_equal(imported.run({"x": np.ones(size, np.float32)})["y"], np.full(size, 3))


def test_broken_initializer_data():
    model, _ = big_model()
    model.graph.initializer[0].raw_data = bytes(10)
    with pytest.raises(ModelError, match="'w'") as error:
        import_model(model)
    one_line(error)


def test_sparse_constants_become_dense():
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    indices = numpy_helper.from_array(np.array([1, 3], np.int64), "i")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])],
    )
    imported = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    np.testing.assert_array_equal(imported.run({"x": np.zeros(4, np.float32)})["y"], [0, 5, 0, 7])


@pytest.mark.parametrize("declared", ["nothing", "a type without a shape"])
def test_an_output_may_leave_its_shape_to_inference(declared):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = onnx.ValueInfoProto(name="y")
    if declared != "nothing":
        y.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([helper.make_node("Transpose", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert [tuple(output.shape) for output in import_model(model).gs.outputs] == [(3, 2)]
