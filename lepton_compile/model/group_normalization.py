"""GroupNormalization (Wu and He, 2018, arXiv:1803.08494) in other operators, before ONNX's tools look at a model.

ONNX infers no shape for its output, and converts its version 18, of one scale for each group, to no other.

    x' = instance_normalization(reshape(x, [N, groups, -1])), of the shape of x, scaled and shifted channel by channel
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPERATOR = "GroupNormalization"
FIRST_OPSET, PER_CHANNEL_OPSET = 18, 21


def spell_out(graph: onnx.GraphProto | onnx.FunctionProto, opset: int) -> None:
    """Replace every GroupNormalization of a graph, and of the graphs inside its nodes.

    Args:
        graph: It is changed.
        opset: Its operator set, which decides whether there is a scale for each group or channel.
    """
    if opset < FIRST_OPSET:
        return
    nodes = list(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                spell_out(inner, opset)
    if any(_is_one(node) for node in nodes):
        made = [new for node in nodes for new in (_spelled_out(node, opset) if _is_one(node) else (node,))]
        del graph.node[:]
        graph.node.extend(made)


def _is_one(node: onnx.NodeProto) -> bool:
    """Whether a node is one, as it should be; others are for the checker to complain of."""
    known = {attribute.name for attribute in node.attribute if not attribute.ref_attr_name}
    return (
        (node.op_type, node.domain, len(node.input), len(node.output)) == (OPERATOR, "", 3, 1)
        and "num_groups" in known
        and len(known) == len(node.attribute)
    )


def _spelled_out(node: onnx.NodeProto, opset: int) -> Iterator[onnx.NodeProto]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups, epsilon = int(attributes["num_groups"]), float(attributes.get("epsilon", 1e-5))
    (x, scale, bias), (y,) = node.input, node.output
    base = f"{node.name or y}/{OPERATOR}"

    def made(name: str) -> str:
        return f"{base}/{name}"

    def constant(name: str, value: list[int] | np.ndarray) -> onnx.NodeProto:
        array = np.asarray(value, None if isinstance(value, np.ndarray) else np.int64)
        return helper.make_node("Constant", [], [made(name)], made(name), value=numpy_helper.from_array(array))

    def computed(op_type: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, [output], f"{base}/{op_type}/{output}")

    per_channel = opset >= PER_CHANNEL_OPSET
    yield computed("Shape", [x], made("shape"))
    yield constant("by_group", [0, groups, -1])
    yield computed("Reshape", [x, made("by_group")], made("grouped"))
    if per_channel:
        for name, value in (("ones", 1), ("zeros", 0)):
            yield constant(f"float_{name}", np.full(groups, value, np.float32))
            yield computed("CastLike", [made(f"float_{name}"), x], made(name))
    factors = [made("ones"), made("zeros")] if per_channel else [scale, bias]
    normalised = computed("InstanceNormalization", [made("grouped"), *factors], made("normalised"))
    normalised.attribute.append(helper.make_attribute("epsilon", epsilon))
    yield normalised
    if not per_channel:
        yield computed("Reshape", [made("normalised"), made("shape")], y)
        return
    yield computed("Reshape", [made("normalised"), made("shape")], made("restored"))
    yield constant("by_channel", [0, 0, -1])
    yield computed("Reshape", [made("restored"), made("by_channel")], made("channels"))
    yield constant("last", [1])
    yield computed("Unsqueeze", [scale, made("last")], made("scale"))
    yield computed("Unsqueeze", [bias, made("last")], made("bias"))
    yield computed("Mul", [made("channels"), made("scale")], made("scaled"))
    yield computed("Add", [made("scaled"), made("bias")], made("shifted"))
    yield computed("Reshape", [made("shifted"), made("shape")], y)
