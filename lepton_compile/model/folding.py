"""Constant folding, and the removal of what nothing reads.

Nodes whose inputs are all constants are evaluated with onnxruntime, level by level; Shape and Size of tensors with
static shapes are known without; an If with a constant condition is replaced by the branch that it takes. Subgraphs are
folded as the main graph is; bodies of model-local functions are left alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.errors import ModelError
from lepton_compile.model.execution import evaluate
from lepton_compile.model.from_onnx import Array, UniqueNames, name_nodes
from lepton_compile.model.graph import Graph
from lepton_compile.model.pooling import settle_ceil_mode
from lepton_compile.model.shapes import is_static
from lepton_compile.model.to_onnx import constants, is_large, model_to_onnx
from lepton_compile.model.traversal import bodies, captured, disconnect, subgraphs, walk

# A value that is larger than this and than all that it is computed from stays a computation.
LARGEST_GROWTH_BYTES = 64 * 2**20

# Not functions of their inputs.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
# They say in which numbers a weight is stored, which its value alone would not.
QUANTIZATION = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# Evaluated as soon as the shape of the input is known.
SHAPE_READERS = {"Shape", "Size"}


def fold_constants(graph: Graph) -> int:
    """Replace what is known at compile time by constants, until nothing more is.

    Left as they are: random operators, QuantizeLinear and DequantizeLinear (a quantized weight stays one), calls of
    functions, operators that onnxruntime refuses, and values of more than 64 MB that are computed from less. That limit
    does not hold for ConstantOfShape, which is how models without weights are published.

    Args:
        graph: Changed in place. Types and shapes are inferred anew as folding makes more of them known.

    Returns:
        The number of nodes that are gone because their value is known; what only they read is removed as well.
    """
    folded = 0
    while True:
        graph.infer_shapes(strict=False)
        if settle_ceil_mode(graph.gs):
            continue
        progress = _fold_known(graph.gs)
        if not progress:
            name_nodes(graph.gs)
            return folded
        folded += progress


def remove_dead_nodes(graph: Graph) -> int:
    """Remove every node that no output depends on, in the main graph and in subgraphs; the inputs stay.

    Returns:
        The number of nodes removed, those inside a removed node's subgraphs not counted.
    """
    return _remove_dead(graph.gs)


def _fold_known(graph: gs.Graph) -> int:
    """Fold with the shapes that are known now; returns the number of nodes folded."""
    folded = 0
    refused: set[int] = set()  # ids of nodes, all of which live as long as the graph
    while True:
        outputs = {id(tensor) for body in bodies(graph) for tensor in body.outputs}
        names = UniqueNames(tensor.name for node in walk(graph) for tensor in (*node.inputs, *node.outputs))
        level = [node for node in walk(graph) if id(node) not in refused and _is_foldable(node, outputs)]
        values = _evaluate(graph, level)
        refused.update(id(node) for node in level if id(node) not in values)
        replacements = {
            id(node): _constants(node, values[id(node)], outputs, names) for node in level if id(node) in values
        }
        for body in bodies(graph):
            body.nodes[:] = [new for node in body.nodes for new in replacements.get(id(node), [node])]
        taken = sum(_inline_constant_ifs(body) for body in bodies(graph))
        _remove_dead(graph)
        if not replacements and not taken:
            return folded
        folded += len(replacements) + taken


def _is_foldable(node: gs.Node, outputs: set[int]) -> bool:
    if (node.domain or "") not in ("", "ai.onnx.ml") or node.op in RANDOM or node.op in QUANTIZATION or node.op == "If":
        return False
    if node.op in SHAPE_READERS and is_static(node.inputs[0].shape):
        return True
    if not all(isinstance(tensor, gs.Constant) or not tensor.name for tensor in node.inputs):
        return False
    if node.op == "Identity" and id(node.outputs[0]) in outputs:
        return False  # This is how a constant output is written.
    if captured(subgraphs(node)) or _divides_by_zero(node):
        return False
    sizes = [bytes_of(tensor) for tensor in node.outputs if tensor.name and tensor.dtype and is_static(tensor.shape)]
    return not _grows(node, sum(sizes))


def _divides_by_zero(node: gs.Node) -> bool:
    """Integer divisions by zero, and of the smallest number by -1, trap: they would end this very process."""
    if node.op not in ("Div", "Mod") or node.inputs[1].dtype.kind not in "iu":
        return False
    divisor: Array = node.inputs[1].values
    return bool(np.any(divisor == 0) or (divisor.dtype.kind == "i" and np.any(divisor == -1)))


def bytes_of(tensor: gs.Tensor) -> int:
    """What the values of a tensor of known shape take."""
    size: int = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    return size


def _grows(node: gs.Node, size: int) -> bool:
    """Whether a result of this many bytes is too much to be kept in place of the node."""
    read = sum(bytes_of(tensor) for tensor in node.inputs if tensor.name)
    return bool(node.op != "ConstantOfShape" and size > max(LARGEST_GROWTH_BYTES, read))


def _evaluate(graph: gs.Graph, level: Sequence[gs.Node]) -> dict[int, list[Array]]:
    """The values of the outputs of these nodes, by the node's id; nodes whose value cannot be had are left out.

    An omitted output has an empty array in its place.
    """
    found: dict[int, list[Array]] = {}
    computed: list[gs.Node] = []
    for node in level:
        if node.op in SHAPE_READERS:
            found[id(node)] = [_shape_value(node)]
        else:
            computed.append(node)
    try:
        found |= _compute(graph, computed)
    except ModelError:
        for node in computed:
            with contextlib.suppress(ModelError):
                found |= _compute(graph, [node])
    return found


def _shape_value(node: gs.Node) -> Array:
    shape = node.inputs[0].shape
    if node.op == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    return np.array(shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))], np.int64)


def _compute(graph: gs.Graph, nodes: Sequence[gs.Node]) -> dict[int, list[Array]]:
    if not nodes:
        return {}
    outputs = [tensor for node in nodes for tensor in node.outputs if tensor.name]
    level = gs.Graph(
        nodes=list(nodes),
        outputs=outputs,
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    feeds = {constant.name: constant.values for constant in constants(level) if is_large(constant)}
    # One thread: the order of additions, and with it the last bit, must not depend on the number of cores.
    values = evaluate(model_to_onnx(level, weights=False, types=False), feeds, threads=1)
    found: dict[int, list[Array]] = {}
    for node in nodes:
        results = [values[tensor.name] if tensor.name else np.empty(0) for tensor in node.outputs]
        expected = [tensor.dtype for tensor in node.outputs]
        arrays = all(isinstance(result, np.ndarray) for result in results)  # sequences come as lists
        if not arrays or any(d is not None and d != r.dtype for d, r in zip(expected, results, strict=True)):
            continue
        if not _grows(node, sum(result.nbytes for result in results)):
            found[id(node)] = results
    return found


def _constants(node: gs.Node, values: Sequence[Array], outputs: set[int], names: UniqueNames) -> list[gs.Node]:
    """Turn what the node computes into constants; returns what stays in its place, an Identity per graph output."""
    tensors = list(node.outputs)
    disconnect(node)
    left: list[gs.Node] = []
    for tensor, value in zip(tensors, values, strict=True):
        if not tensor.name:
            continue
        if id(tensor) in outputs:
            constant = gs.Constant(names.new(f"{tensor.name}_value"), value)
            name = f"{node.name}_{len(left)}" if left else node.name
            left.append(gs.Node("Identity", name, inputs=[constant], outputs=[tensor]))
        else:
            tensor.to_constant(value)
    return left


def _inline_constant_ifs(graph: gs.Graph) -> int:
    """Put the nodes of the branch that is taken in place of each If of this graph whose condition is known."""
    nodes: list[gs.Node] = []
    taken = 0
    for node in graph.nodes:
        if node.op != "If" or node.domain or not isinstance(node.inputs[0], gs.Constant):
            nodes.append(node)
            continue
        branch = node.attrs["then_branch" if node.inputs[0].values.item() else "else_branch"]
        other = node.attrs["else_branch" if node.inputs[0].values.item() else "then_branch"]
        outputs = list(node.outputs)
        node.inputs.clear()
        node.outputs.clear()
        for dropped in other.nodes:
            disconnect(dropped)
        nodes += branch.nodes
        nodes += _rename_outputs(branch, outputs, node.name)
        taken += 1
    graph.nodes[:] = nodes
    return taken


def _rename_outputs(branch: gs.Graph, outputs: Sequence[gs.Tensor], name: str) -> list[gs.Node]:
    """Let the branch's nodes produce these tensors as its outputs; returns copies for those that are the same."""
    copies: list[gs.Node] = []
    renamed: dict[int, gs.Tensor] = {}
    for inner, outer in zip(branch.outputs, outputs, strict=True):
        if not outer.name:
            continue
        if id(inner) in renamed:
            source = renamed[id(inner)]
            copies.append(gs.Node("Identity", f"{name}_{len(copies)}", inputs=[source], outputs=[outer]))
            continue
        renamed[id(inner)] = outer
        for node in (*inner.inputs, *inner.outputs):
            for side in (node.inputs, node.outputs):
                for index, tensor in enumerate(side):
                    if tensor is inner:
                        side[index] = outer
    return copies


def _remove_dead(graph: gs.Graph) -> int:
    """Backwards, so that a node is met after all that reads it."""
    removed = 0
    outputs = {id(tensor) for tensor in graph.outputs}
    live: list[gs.Node] = []
    for node in reversed(graph.nodes):
        if any(id(tensor) in outputs or tensor.outputs for tensor in node.outputs):
            live.append(node)
            removed += sum(_remove_dead(subgraph) for subgraph in subgraphs(node))
        else:
            disconnect(node)
            removed += 1
    graph.nodes[:] = reversed(live)
    return removed
