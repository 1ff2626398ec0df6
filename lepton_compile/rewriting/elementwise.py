"""Element-wise operators: which they are, and how far a chain of them reaches behind a node."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import (
    ONNX_DOMAINS,
    Uses,
    constant,
    has_output,
    is_operator,
    producer,
    static_shape,
)
from lepton_compile.rewriting.quantization import is_restoring
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

    BatchNormalization with constant statistics counts: each channel has its own scale and shift. QuantizeLinear counts
    with one scale, but not what restores: that belongs to its reader, so that the short numbers are what lies in
    memory.
    """
    if len(node.outputs) != 1 and any(has_output(node, index) for index in range(1, len(node.outputs))):
        return False
    if any(tensor.dtype is not None and tensor.dtype.kind in "OSU" for tensor in (*node.inputs, *node.outputs)):
        return False
    if is_operator(node, "BatchNormalization"):
        return not node.attrs.get("training_mode", 0) and all(
            constant(tensor) is not None for tensor in node.inputs[1:]
        )
    if is_restoring(node):
        return False
    if is_operator(node, "QuantizeLinear"):
        scale = constant(node.inputs[1])
        return scale is not None and scale.size == 1
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


def computed_for(
    last: gs.Node,
    uses: Uses,
    position: Mapping[int, int],
    belongs: Callable[[gs.Node], bool] = is_elementwise,
    fits: Callable[[gs.Node, gs.Node], bool] | None = None,
) -> tuple[list[gs.Node], list[tuple[gs.Node, str]]]:
    """The nodes that are computed for `last` alone, in the order of the graph, and those that are not, with why.

    Producers are looked at from the last to the first: what reads one has been looked at before it.

    Args:
        last: A node with one output.
        uses: The uses of the graph's tensors.
        position: The place of each node in its scope.
        belongs: Which nodes are looked at.
        fits: Whether a node, the first argument, is computed once on the way to `last`; by default, if its shape is
            the same.
    """
    nodes: list[gs.Node] = []
    inside: set[int] = set()
    seen = {id(last)}
    refusals: list[tuple[gs.Node, str]] = []
    waiting: list[tuple[int, gs.Node]] = [(-position[id(last)], last)]
    while waiting:
        _, node = heapq.heappop(waiting)
        if node is not last:
            why = _why_apart(node, uses, inside)
            if not why and not (fits or _same_shape)(node, last):
                why = f"'{_output(node).name}' is broadcast on the way to {last.name}"
            if why:
                refusals.append((node, f"{node.name}: {why}"))
                continue
        if len(nodes) == MAXIMUM_NODES:
            break
        nodes.append(node)
        inside.add(id(node))
        for tensor in node.inputs:
            source = producer(tensor)
            if source is not None and id(source) not in seen and uses.scope(source) is uses.scope(last):
                seen.add(id(source))
                if belongs(source):
                    heapq.heappush(waiting, (-position[id(source)], source))
    return nodes[::-1], refusals


def _output(node: gs.Node) -> gs.Tensor:
    return next(tensor for tensor in node.outputs if not tensor.is_empty())


def _same_shape(node: gs.Node, last: gs.Node) -> bool:
    shape = static_shape(_output(node))
    return shape is not None and shape == static_shape(_output(last))


def _why_apart(node: gs.Node, uses: Uses, inside: set[int]) -> str:
    output = _output(node)
    if uses.is_output(output):
        return f"'{output.name}' is an output as well"
    return next(
        (f"'{output.name}' is used by {reader.name} as well" for reader in output.outputs if id(reader) not in inside),
        "",
    )
