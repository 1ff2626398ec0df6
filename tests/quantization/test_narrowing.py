import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto

from lepton_compile.model import import_model
from lepton_compile.quantization.narrowing import find_products, narrow, rounded
from lepton_compile.rewriting.patterns import constant

TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    main (float[1,16,6,6] x) => (float[1,16,6,6] y, float[1,16,16] z)
    {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (r, w)
        c = Conv <pads = [1, 1, 1, 1]> (r, v)
        s = Add (b, r)
        y = Add (s, c)
        shape = Constant <value_ints = [1, 16, 36]> ()
        m = Reshape (r, shape)
        t = Transpose <perm = [0, 2, 1]> (m)
        z = MatMul (m, t)
    }"""


def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name in ("w", "v"):
        values = random.standard_normal((16, 16, 3, 3), np.float32) / 9
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for number, node in enumerate(made.graph.node):
        node.name = f"{node.op_type}_{number}"
    return made


def narrowed(*layers: str):
    return narrow(import_model(model()), layers)


def casts(graph) -> list[int]:
    return [node.attrs["to"] for node in graph.gs.nodes if node.op == "Cast"]


def test_what_several_layers_read_is_rounded_once() -> None:
    """Here by a convolution, by an addition, and, moved, by both sides of a product."""
    graph = narrowed("Conv_2", "MatMul_9")
    assert casts(graph) == [TensorProto.BFLOAT16, TensorProto.FLOAT]
    (widened,) = (node for node in graph.gs.nodes if node.op == "Cast" and node.attrs["to"] == TensorProto.FLOAT)
    assert {reader.op for reader in widened.outputs[0].outputs} == {"Conv", "Add", "Reshape"}


def test_other_layers_keep_their_precision() -> None:
    """They read what was there, and the weights that they share with others."""
    graph = narrowed("Conv_2")
    nodes = {node.name: node for node in graph.gs.nodes}
    weights = {name: constant(nodes[name].inputs[1]) for name in ("Conv_0", "Conv_2", "Conv_3")}
    assert nodes["Conv_3"].inputs[0].name == "r"
    assert np.array_equal(weights["Conv_2"], rounded(weights["Conv_0"]))
    assert not np.array_equal(weights["Conv_3"], rounded(weights["Conv_3"]))


def test_every_product_is_found() -> None:
    assert find_products(import_model(model())) == ["Conv_0", "Conv_2", "Conv_3", "MatMul_9"]


def test_what_has_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 'Relu_1' cannot compute in bfloat16: it is a Relu"):
        narrowed("Relu_1")
    with pytest.raises(ValueError, match="layer 'Conv_9' cannot compute in bfloat16: there is none"):
        narrowed("Conv_9")


def test_onnxruntime_runs_it() -> None:
    image = {"x": np.random.default_rng(1).standard_normal((1, 16, 6, 6), np.float32)}
    answers = []
    for proto in (model(), narrowed("Conv_0", "Conv_2", "Conv_3", "MatMul_9").to_model()):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["y", "z"], image))
    for exact, near in zip(*answers, strict=True):
        error = np.linalg.norm(exact - near) / np.linalg.norm(exact)
        assert 1e-5 < error < 2**-7
