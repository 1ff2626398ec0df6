"""A small BERT in the operators that PyTorch exports, through all passes of the fuse stage."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.model import Graph, import_model
from lepton_compile.planning import Plan, adapt
from lepton_compile.rewriting import Stage, list_passes
from lepton_compile.rewriting.equality import same_graph
from lepton_compile.rewriting.regions import kind_of

FUSE = [entry.name for entry in list_passes() if entry.stage is Stage.FUSE]
LAYERS, WIDTH, HEADS, LENGTH, BATCH = 2, 24, 3, 7, 2


class Bert:
    """Builds the graph, a node at a time."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, value, dtype=np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape) -> str:
        return self.constant(self.random.normal(size=shape) / np.sqrt(shape[0]))

    def node(self, op_type, *inputs, **attributes) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [output], name=f"{op_type}_{len(self.nodes)}", **attributes)
        )
        return output

    def linear(self, x, width, wide) -> str:
        return self.node("Add", self.weight(wide), self.node("MatMul", x, self.weight(width, wide)))

    def normalization(self, x) -> str:
        axes = self.constant([-1], np.int64)
        centred = self.node("Sub", x, self.node("ReduceMean", x, axes))
        squares = self.node("Pow", centred, self.constant(2))
        variance = self.node("Add", self.node("ReduceMean", squares, axes), self.constant(1e-12))
        normal = self.node("Div", centred, self.node("Sqrt", variance))
        return self.node("Add", self.node("Mul", normal, self.weight(WIDTH)), self.weight(WIDTH))

    def gelu(self, x) -> str:
        erf = self.node("Erf", self.node("Div", x, self.constant(2**0.5)))
        return self.node("Mul", self.node("Mul", x, self.node("Add", erf, self.constant(1))), self.constant(0.5))

    def heads(self, x, order) -> str:
        shape = self.constant([BATCH, LENGTH, HEADS, WIDTH // HEADS], np.int64)
        return self.node("Transpose", self.node("Reshape", x, shape), perm=order)

    def attention(self, x, mask) -> str:
        query, key, value = (self.linear(x, WIDTH, WIDTH) for _ in range(3))
        scores = self.node("MatMul", self.heads(query, [0, 2, 1, 3]), self.heads(key, [0, 2, 3, 1]))
        scores = self.node("Add", self.node("Div", scores, self.constant((WIDTH // HEADS) ** 0.5)), mask)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), self.heads(value, [0, 2, 1, 3]))
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.node("Reshape", joined, self.constant([BATCH, LENGTH, WIDTH], np.int64))

    def layer(self, x, mask) -> str:
        x = self.normalization(self.node("Add", self.linear(self.attention(x, mask), WIDTH, WIDTH), x))
        wide = self.gelu(self.linear(x, WIDTH, 4 * WIDTH))
        return self.normalization(self.node("Add", self.linear(wide, 4 * WIDTH, WIDTH), x))

    def model(self) -> onnx.ModelProto:
        words = self.node("Gather", self.weight(50, WIDTH), "tokens")
        seen = self.node("Cast", self.node("Unsqueeze", "mask", self.constant([1, 2], np.int64)), to=TensorProto.FLOAT)
        mask = self.node("Mul", self.node("Sub", self.constant(1), seen), self.constant(-10000))
        x = self.normalization(self.node("Add", words, self.weight(LENGTH, WIDTH)))
        for _ in range(LAYERS):
            x = self.layer(x, mask)
        self.nodes.append(helper.make_node("Tanh", [x], ["y"], name="last"))
        ids = [helper.make_tensor_value_info(name, TensorProto.INT64, [BATCH, LENGTH]) for name in ("tokens", "mask")]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, LENGTH, WIDTH])
        graph = helper.make_graph(self.nodes, "bert", ids, [output], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def bert() -> Graph:
    return import_model(Bert().model())


def test_everything_is_recognised(bert):
    fused, _ = adapt(bert, None, passes=FUSE, verify=True)
    counts = Counter(kind_of(node) or node.op for node in fused.nodes())
    assert counts == {
        "Gather": 1,
        "Unsqueeze": 1,
        "ElementWise": 1,  # the mask
        "Rows": 2,  # words and positions before the first normalisation, Tanh behind the last
        "LayerNormalization": 2 * LAYERS - 1,
        "Attention": LAYERS,
        "MatMul": 6 * LAYERS,
        "Reshape": 4 * LAYERS,
        "Transpose": LAYERS,  # back
    }
    products = [function for function in fused.gs.functions if function.name.startswith("MatMul_")]
    epilogues = Counter(tuple(kind_of(node) or node.op for node in function.nodes) for function in products)
    assert epilogues == {
        ("MatMul", "Add"): 3 * LAYERS,
        ("MatMul", "Add", "Add"): 2 * LAYERS,
        ("MatMul", "Add", "Gelu"): LAYERS,
    }


def test_every_function_is_called_once(bert):
    fused, _ = adapt(bert, None, passes=FUSE)
    nodes = [*fused.gs.nodes, *(node for function in fused.gs.functions for node in function.nodes)]
    calls = Counter(node.op for node in nodes if kind_of(node))
    assert calls == dict.fromkeys((function.name for function in fused.gs.functions), 1)
    names = Counter(node.name for node in nodes if not kind_of(node))
    assert names == Counter(node.name for node in bert.gs.nodes)


def test_a_replay_gives_the_same(bert):
    fused, plan = adapt(bert, None, passes=FUSE)
    again, _ = adapt(bert, None, plan=Plan.from_json(plan.to_json()))
    assert same_graph(fused, again)
    assert fused.to_model().SerializeToString() == again.to_model().SerializeToString()
    assert same_graph(Graph.from_model(fused.to_model()), fused)
