"""Element-wise operators: which they are, and how far a chain of them reaches behind a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import ONNX_DOMAINS, Uses, constant, has_output, is_operator, static_shape
from lepton_compile.rewriting.regions import kind_of

# Each element of the result depends on one element of each operand, with broadcasting.
OPERATORS = frozenset(
    ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
     "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log",
     "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
     "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Add", "And", "BitShift",
     "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
     "LessOrEqual", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor", "Max", "Mean", "Min", "Sum", "Where")
)  # fmt: skip

# Recognised patterns that are element-wise as a whole, and what is left of other chains.
KINDS = frozenset(("ElementWise", "Gelu", "HardSwish", "SiLU"))

# An expression of more nodes spills registers and takes long to compile; fusing it further saves little.
MAXIMUM_NODES = 32


def is_elementwise(node: gs.Node) -> bool:
    """Whether a node computes each element of its one output from one element of each operand.

    BatchNormalization with constant statistics counts: each channel has its own scale and shift.
    """
    if len(node.outputs) != 1 and any(has_output(node, index) for index in range(1, len(node.outputs))):
        return False
    if any(tensor.dtype is not None and tensor.dtype.kind in "OSU" for tensor in (*node.inputs, *node.outputs)):
        return False
    if is_operator(node, "BatchNormalization"):
        return not node.attrs.get("training_mode", 0) and all(
            constant(tensor) is not None for tensor in node.inputs[1:]
        )
    return (node.op in OPERATORS and node.domain in ONNX_DOMAINS) or kind_of(node) in KINDS


@dataclass
class Chain:
    """The element-wise nodes that one node's kernel can compute on the way to memory.

    Attributes:
        nodes: The node itself, then those that follow, in the order of the graph.
        refusals: Why the next element-wise node does not belong to it, where there is one.
    """

    nodes: list[gs.Node]
    refusals: list[str] = field(default_factory=list)


def chain_behind(anchor: gs.Node, uses: Uses, position: Mapping[int, int], taken: set[int]) -> Chain:
    """Follow the value of `anchor` through element-wise nodes that keep its shape.

    Nodes are taken in the order of the graph. Where the value is read more than once, as in x * sigmoid(x), the chain
    goes on behind the node where all the paths meet, or else ends before they part.

    Args:
        anchor: A node with one output.
        uses: The uses of the graph's tensors.
        position: The place of each node in its scope.
        taken: Identities of the nodes that belong to other regions.
    """
    shape = static_shape(anchor.outputs[0])
    nodes = [anchor]
    inside = {id(anchor)}
    closed = 1
    refusal = ""
    while True:
        seen = {id(tensor): tensor for node in nodes for tensor in node.outputs}.values()
        live = [tensor for tensor in seen if uses.is_output(tensor) or _outside(tensor, inside)]
        if len(live) <= 1:
            closed = len(nodes)
        readers = [(tensor, reader) for tensor in live for reader in _outside(tensor, inside)]
        if len(nodes) == MAXIMUM_NODES or not any(is_elementwise(reader) for _, reader in readers):
            break
        refusal = next(filter(None, (_why_end(tensor, uses) for tensor in live)), "") or next(
            filter(None, (_why_not(tensor, reader, anchor, uses, shape, taken) for tensor, reader in readers)), ""
        )
        if refusal:
            break
        reader = min((reader for _, reader in readers), key=lambda node: position[id(node)])
        nodes.append(reader)
        inside.add(id(reader))
    own = refusal and f"{anchor.name}: {refusal}"
    return Chain(nodes[:closed], [own] if own else [])


def _outside(tensor: gs.Tensor, inside: set[int]) -> list[gs.Node]:
    return [reader for reader in tensor.outputs if id(reader) not in inside]


def _why_end(tensor: gs.Tensor, uses: Uses) -> str:
    return f"'{tensor.name}' is an output as well" if uses.is_output(tensor) else ""


def _why_not(
    tensor: gs.Tensor, reader: gs.Node, anchor: gs.Node, uses: Uses, shape: tuple[int, ...] | None, taken: set[int]
) -> str:
    """Why `reader` of `tensor` cannot be computed together with `anchor`; "" if it can."""
    if uses.scope(reader) is not uses.scope(anchor):
        return f"'{tensor.name}' is used inside a branch or loop as well, by {reader.name}"
    if not is_elementwise(reader):
        return f"'{tensor.name}' is used by {reader.name} ({reader.op}) as well"
    if id(reader) in taken:
        return f"{reader.name} is computed with the other operand's kernel"
    if shape is None or static_shape(reader.outputs[0]) != shape:
        return f"{reader.name} broadcasts '{tensor.name}' to another shape"
    return ""
