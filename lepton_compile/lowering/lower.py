"""Graph to Program: every node, or fused region, in order."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from tvm import te

from lepton_compile.errors import (
    BudgetError,
    BuildError,
    LeptonError,
    ShapeError,
    UnsupportedOperator,
    UnsupportedOperatorError,
)
from lepton_compile.kernels.kernel import Machine, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.lowering.anchors import ANCHORS
from lepton_compile.lowering.budgets import excess
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.linear import follow
from lepton_compile.lowering.nodes import Array, Node, Region, region_of
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.program import Buffer, Program, Storage
from lepton_compile.lowering.region import Scope, as_rank
from lepton_compile.lowering.requirements import requirement_of
from lepton_compile.model import FUSED_DOMAIN, Graph

if TYPE_CHECKING:
    from lepton_compile.target import Target

# Frames that walking the expression of the largest region takes, with room to spare.
EXPRESSION_DEPTH = 20_000
# Operators whose result has the elements of their first input, in the same order.
VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
# Operators whose inputs broadcast against each other. A constant of lower rank is given the full rank, so that its
# channels, if it has any, are found on axis 1.
BROADCASTING = frozenset(
    ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Mod", "PRelu", "Where", "And", "Or", "Xor",
     "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
)  # fmt: skip


def lower(
    graph: Graph,
    target: Target,
    name: str,
    *,
    tuning: Mapping[str, str] | None = None,
    exact_order: bool = False,
    small: bool = False,
) -> Program:
    """Lower a graph.

    A budget of the target's for memory or size decides whether weights that are larger than the model's are affordable:
    of convolutions by minimal filtering, and of integers that are dequantized when the model is compiled.

    Args:
        graph: A graph whose tensors all have static shapes; fused regions are calls of functions of the domain
        "lepton".
        target: The machine to compile for.
        name: Prefix of the library's symbols, a C identifier.
        tuning: Algorithms to take, by name, for the problems that have these keys; what it does not name, or names
            wrongly, is left to the model of costs.
        exact_order: Only sums of products of the model's own numbers: no minimal filtering (Winograd), whose rounding
            errors are larger, and no pixels that share a vector. Both spread NaN and infinities over neighbouring
            outputs.
        small: A library as small as can be, at the price of speed, budget or not; see `Builder`.

    Returns:
        The program.

    Raises:
        UnsupportedOperatorError: Nodes that cannot be lowered, all of them.
        BudgetError: It takes more memory than the target has, or than its budget allows.
    """
    _require_supported(graph)
    _require_addressable(graph)
    machine = machine_of(target)
    # A chain of operators is an expression as deep as the chain is long, and walking it is recursive.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, EXPRESSION_DEPTH))
    try:

        def lowered(small: bool) -> Program:
            builder = Builder(name, replace(machine, small=small), tuning=tuning, exact_order=exact_order)
            return _Lowering(graph, builder).run()

        program = lowered(small)
        if not small and excess(program, target.budget, target.resources.memory_bytes):
            program = lowered(small=True)
    finally:
        sys.setrecursionlimit(limit)
    if problem := excess(program, target.budget, target.resources.memory_bytes):
        raise BudgetError(problem)
    return program


def machine_of(target: Target) -> Machine:
    """What kernel families need to know of a target."""
    resources = target.resources
    return Machine(
        lanes=target.vector_bytes // 4,
        registers=target.vector_registers,
        l1_bytes=resources.l1d_bytes,
        l2_bytes=resources.l2_bytes,
        threads=resources.threads,
        fused_multiply_add=target.has_fma,
        dot_products=target.dot_products,
        bfloat16_dot_products=target.has_bfloat16_dot_products,
    )


def _require_supported(graph: Graph) -> None:
    missing: dict[tuple[str, str], list[str]] = {}
    functions = {function.name: function for function in graph.gs.functions}
    bodies = [node for function in functions.values() for node in function.nodes]
    for node in [*graph.nodes(), *bodies]:
        domain = node.domain or ""
        if domain == FUSED_DOMAIN and node.op in functions:
            continue
        known = not domain and (node.op in OPERATORS or node.op in ANCHORS or node.op in ("If", "Constant"))
        if not known:
            missing.setdefault((domain, node.op), []).append(node.name)
    if missing:
        raise UnsupportedOperatorError(
            [
                UnsupportedOperator(op, domain, graph.opset, tuple(names), "no kernel computes it yet")
                for (domain, op), names in sorted(missing.items())
            ]
        )


def _require_addressable(graph: Graph) -> None:
    """Kernels count elements in 32 bits."""
    tensors = [*graph.gs.inputs, *(tensor for node in graph.nodes() for tensor in node.outputs)]
    for tensor in tensors:
        if tensor.shape is not None and math.prod(tensor.shape) >= 2**31:
            raise ShapeError(
                f"tensor '{tensor.name}' of shape {list(tensor.shape)} has 2^31 elements or more; bind smaller shapes",
                tensor=tensor.name,
            )


class _Lowering:
    """One run of `lower`: which buffer holds each tensor."""

    def __init__(self, graph: Graph, builder: Builder) -> None:
        self.graph = graph
        self.builder = builder
        self.functions: Mapping[str, gs.Function] = {function.name: function for function in graph.gs.functions}
        self.values: dict[str, Buffer] = {}
        self.constants: dict[str, Array] = {}
        self.dequantized: dict[str, Node] = {}
        self.outputs: dict[str, Buffer] = {}

    def run(self) -> Program:
        builder = self.builder
        for tensor in self.graph.gs.inputs:
            buffer = builder.buffer(
                tensor.shape, np.dtype(tensor.dtype).name, storage=Storage.INPUT, tensor=tensor.name
            )
            builder.inputs.append(buffer)
            self.values[tensor.name] = buffer
        for tensor in self.graph.gs.outputs:
            buffer = builder.buffer(
                tensor.shape, np.dtype(tensor.dtype).name, storage=Storage.OUTPUT, tensor=tensor.name
            )
            builder.outputs.append(buffer)
            self.outputs[tensor.name] = buffer
        self.steps(self.graph.gs, self.outputs)
        return builder.finish(self.graph.notes)

    def steps(self, graph: gs.Graph, results: Mapping[str, Buffer]) -> None:
        """Lower the nodes of a graph; its outputs go to the buffers of `results`."""
        for node in graph.nodes:
            if node.op == "If" and not node.domain:
                self.branch(node, results)
                continue
            try:
                self.region(region_of(node, self.functions), results)
            except LeptonError:
                raise
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise BuildError(f"{node.op} '{node.name}' cannot be lowered: {reason}", nodes=(node.name,)) from error
        for tensor in graph.outputs:
            # What no node of this graph produced: an input, a constant, or a value of an outer graph.
            if not any(tensor is made for node in graph.nodes for made in node.outputs):
                self.builder.copy(self.buffer_of(tensor), results[tensor.name], [tensor.name])

    def buffer_of(self, tensor: gs.Tensor) -> Buffer:
        """Where a tensor is."""
        if isinstance(tensor, gs.Constant):
            return self.builder.weight(tensor.values, tensor=tensor.name)
        if tensor.name in self.dequantized:
            scope = Scope(self.builder, [tensor.name])
            return scope.to_memory(self.tensor(tensor.name, scope, {}), name=tensor.name)
        return self.values[tensor.name]

    def branch(self, node: gs.Node, results: Mapping[str, Buffer]) -> None:
        """Lower an If: both branches write the same buffers."""
        builder = self.builder
        made = {
            tensor.name: results.get(tensor.name)
            or builder.buffer(tensor.shape, np.dtype(tensor.dtype).name, tensor=tensor.name)
            for tensor in node.outputs
        }
        sides = []
        for attribute in ("then_branch", "else_branch"):
            graph = node.attrs[attribute]
            inner = {
                inside.name: made[outside.name] for inside, outside in zip(graph.outputs, node.outputs, strict=True)
            }
            before = dict(self.values)
            with builder.collect() as steps:
                self.steps(graph, inner)
            self.values = before
            sides.append(steps)
        condition = self.buffer_of(node.inputs[0])
        builder.branch(condition, sides[0], sides[1], node.name)
        self.values.update(made)

    def region(self, region: Region, results: Mapping[str, Buffer]) -> None:
        """Lower a node or a fused region."""
        self.constants.update(region.constants)
        if _is_known(region) and not results.keys() & region.outputs.keys():
            self.dequantized[region.nodes[0].outputs[0]] = region.nodes[0]
            return
        scope = Scope(self.builder, [node.name for node in region.nodes])
        tensors: dict[str, te.Tensor] = {}
        for node in region.nodes:
            if self.view(node, region, scope, tensors, results):
                continue
            for name, tensor in zip(node.outputs, self.evaluate(node, scope, tensors), strict=False):
                tensors[name] = tensor
        for name, shape in region.outputs.items():
            if shape_of(tensors[name]) != shape:
                raise BuildError(
                    f"'{name}' should have the shape {list(shape)}, but {', '.join(scope.nodes)} would give it "
                    f"{list(shape_of(tensors[name]))}",
                    nodes=scope.nodes,
                )
            if name not in self.values:
                self.values[name] = scope.to_memory(tensors[name], name=name, into=results.get(name))

    def evaluate(self, node: Node, scope: Scope, tensors: dict[str, te.Tensor]) -> tuple[te.Tensor, ...]:
        """A node's outputs as tensors."""
        rank = 0
        if node.op_type in BROADCASTING:
            rank = max(len(self.shape(name, tensors)) for name in node.inputs)
        inputs = [self.tensor(name, scope, tensors, rank) if name else None for name in node.inputs]
        operation = Operation(
            op_type=node.op_type,
            name=node.name,
            attributes={key: _plain(value) for key, value in node.attributes.items()},
            opset=self.graph.opset,
            outputs=len(node.outputs),
            constants=tuple(self.constants.get(name) if name else None for name in node.inputs),
        )
        required = requirement_of(operation, *inputs)
        if required is not None:
            condition, problem = required
            self.builder.require(scope.to_memory(condition), problem, node.name)
        made = ANCHORS[node.op_type](scope, operation, *inputs) if node.op_type in ANCHORS else None
        if made is None:
            if node.op_type not in OPERATORS:
                raise operation.unsupported("these inputs are not supported")
            made = OPERATORS[node.op_type](operation, *inputs)
        if isinstance(made, te.Tensor):
            follow(scope, operation, inputs, made)
        return made if isinstance(made, tuple) else (made,)

    def shape(self, name: str, tensors: Mapping[str, te.Tensor]) -> tuple[int, ...]:
        """The shape of a tensor, wherever it is."""
        if name in tensors:
            return shape_of(tensors[name])
        if name in self.dequantized:
            name = self.dequantized[name].inputs[0]
        if name in self.constants:
            return tuple(self.constants[name].shape)
        return tuple(int(size) for size in self.values[name].shape)

    def tensor(self, name: str, scope: Scope, tensors: dict[str, te.Tensor], rank: int = 0) -> te.Tensor:
        """A node's input as a tensor; a constant with at least `rank` axes."""
        if name in tensors:
            return tensors[name]
        if name in self.constants:
            return scope.constant(as_rank(self.constants[name], rank))
        if name in self.dequantized:
            (tensors[name],) = self.evaluate(self.dequantized[name], scope, tensors)
        else:
            tensors[name] = scope.tensor_of(self.values[name])
        return tensors[name]

    def view(
        self,
        node: Node,
        region: Region,
        scope: Scope,
        tensors: dict[str, te.Tensor],
        results: Mapping[str, Buffer],
    ) -> bool:
        """Let the output of a reshaping node share the memory of its input, if that is possible."""
        if node.op_type not in VIEWS or node.domain or len([name for name in node.outputs if name]) > 1:
            return False
        name = node.inputs[0]
        if name in self.constants or node.outputs[0] in results:
            return False
        tensor = self.tensor(name, scope, tensors)
        if scope.stored(tensor) is None:
            return False
        (shaped,) = self.evaluate(node, scope, tensors)[:1]
        source = scope.in_layout(tensor, PLAIN)
        shape = shape_of(shaped)
        assert math.prod(shape) == math.prod(shape_of(tensor))
        viewed = self.builder.view(source, shape, node.outputs[0] if node.outputs[0] in region.outputs else None)
        tensors[node.outputs[0]] = scope.tensor_of(viewed)
        return True


def _is_known(region: Region) -> bool:
    """Whether a region is a DequantizeLinear of constants: who reads it decides what lies in memory."""
    (node, *others) = region.nodes
    return (
        node.op_type == "DequantizeLinear" and not others and region.constants.keys() >= set(filter(None, node.inputs))
    )


def _plain(value: object) -> object:
    """An attribute without graphsurgeon's wrappers."""
    return value.values if isinstance(value, gs.Constant) else value


__all__ = ["lower"]
