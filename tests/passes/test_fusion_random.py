"""All passes of the fuse stage on random graphs: the answers stay, bit for bit, and so does every node."""

from collections import Counter

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lepton_compile.model import Graph
from lepton_compile.planning import adapt
from lepton_compile.rewriting import Stage, list_passes
from lepton_compile.rewriting.patterns import scopes
from lepton_compile.rewriting.regions import kind_of

FUSE = [entry.name for entry in list_passes() if entry.stage is Stage.FUSE]
SHAPE = (1, 3, 4, 4)
UNARY = ("Relu", "Sigmoid", "Neg", "Tanh", "HardSwish", "Abs")
BINARY = ("Add", "Sub", "Mul", "Max")
SHAPED = ("Conv", "MatMul", "Transpose", "Softmax")  # keep the shape as well
SMALLER = ("ReduceMean", "GlobalAveragePool")


@st.composite
def models(draw) -> onnx.ModelProto:
    """A graph whose nodes read any earlier values, with any of them as outputs."""
    nodes, full, small = [], ["x", "z"], []
    for index in range(draw(st.integers(2, 24))):
        name = f"v{index}"
        op_type = draw(st.sampled_from(UNARY + BINARY + BINARY + SHAPED + SMALLER))
        operands = [draw(st.sampled_from(full[-4:]))]
        attributes = {"perm": [0, 1, 3, 2]} if op_type == "Transpose" else {}
        if op_type in BINARY:
            operands.append(draw(st.sampled_from(full[-4:] + small[-2:] + ["scalar", "channel"])))
            operands = draw(st.permutations(operands))
        elif op_type == "Conv":
            operands.append("kernel")
        elif op_type == "MatMul":
            operands.append(draw(st.sampled_from(["square", full[-1]])))
        elif op_type == "ReduceMean":
            operands.append("axes")
        nodes.append(helper.make_node(op_type, operands, [name], name=f"n{index}", **attributes))
        (small if op_type in SMALLER else full).append(name)
    names = [node.output[0] for node in nodes]
    read = {name for node in nodes for name in node.input}
    outputs = [name for name in names if name not in read or draw(st.integers(0, 9)) == 0]
    if draw(st.booleans()):
        nodes.append(_branch(draw(st.sampled_from(full)), draw(st.sampled_from(full))))
        outputs.append("branched")
    random = np.random.default_rng(0)
    constants = {
        "scalar": np.float32(0.5),
        "channel": random.normal(size=(3, 1, 1)).astype(np.float32),
        "square": random.normal(size=(4, 4)).astype(np.float32) / 4,
        "kernel": random.normal(size=(3, 3, 1, 1)).astype(np.float32),
        "axes": np.array([-1]),
    }
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "z")]
        + [helper.make_tensor_value_info("condition", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _branch(one: str, other: str) -> onnx.NodeProto:
    """An If whose branches capture outer values, and have something to fuse themselves."""
    branches = {}
    for attribute, operand, op_type in (("then_branch", one, "Tanh"), ("else_branch", other, "Abs")):
        nodes = [
            helper.make_node("Conv", [operand, "kernel"], [f"{attribute}_a"], name=f"{attribute}_conv"),
            helper.make_node(op_type, [f"{attribute}_a"], [f"{attribute}_b"], name=f"{attribute}_activation"),
        ]
        output = helper.make_tensor_value_info(f"{attribute}_b", TensorProto.FLOAT, SHAPE)
        branches[attribute] = helper.make_graph(nodes, attribute, [], [output])
    return helper.make_node("If", ["condition"], ["branched"], name="if", **branches)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(model=models(), seed=st.integers(0, 3))
def test_random_graphs(model, seed):
    graph = Graph.from_model(model)
    graph.infer_shapes()
    fused, plan = adapt(graph, None, passes=FUSE)
    random = np.random.default_rng(seed)
    inputs = {name: random.normal(size=SHAPE).astype(np.float32) for name in ("x", "z")}
    inputs["x"].reshape(-1)[:3] = [np.nan, np.inf, -np.inf]
    inputs["condition"] = np.array(seed % 2 == 0)
    expected, actual = graph.run(inputs), fused.run(inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
    originals = Counter(node.name for node in graph.nodes())
    assert originals == Counter(node.name for scope in scopes(fused) for node in scope.nodes if not kind_of(node))
    assert adapt(graph, None, passes=FUSE)[1] == plan
