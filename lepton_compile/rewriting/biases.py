"""Adding to each output of a node what an approximation takes from its mean (Nagel et al., 2019, arXiv:1906.04721)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand, scopes

Array = npt.NDArray[Any]

RECURRENT = ("GRU", "LSTM", "RNN")


def correctable(graph: Graph, names: Iterable[str]) -> dict[str, int]:
    """Those of these nodes whose outputs can be corrected, in all scopes, and how many numbers that takes each.

    Recurrent layers take two for each row of their weights: for those of the input, and behind them of the state.
    """
    wanted = set(names)
    found = {}
    for scope in scopes(graph):
        for node in scope.nodes:
            if node.name in wanted and (weights := constant(operand(node, 1))) is not None:
                if is_operator(node, "Conv", "BatchNormalization"):
                    found[node.name] = weights.shape[0]
                elif is_operator(node, "ConvTranspose"):
                    found[node.name] = weights.shape[1] * int(node.attrs.get("group", 1))
                elif is_operator(node, "Gemm", "MatMul"):
                    found[node.name] = weights.shape[0 if int(node.attrs.get("transB", 0)) else -1]
                elif is_operator(node, *RECURRENT) and (operand(node, 3) is None or _bias(node) is not None):
                    found[node.name] = 2 * math.prod(weights.shape[:2])
    return found


def add_to_outputs(graph: Graph, offsets: Mapping[str, Iterable[float]]) -> None:
    """Add a number to each output channel of nodes.

    Args:
        graph: Changed in place.
        offsets: By nodes, in all scopes, as many numbers as `correctable` says.
    """
    uses = Uses(graph)
    for scope in scopes(graph):
        for node in [node for node in scope.nodes if node.name in offsets]:
            _add(node, np.array(offsets[node.name], np.float32), uses)


def add_more(node: gs.Node, offsets: Array, fresh_name: Callable[[str], str]) -> None:
    """Add to what `add_to_outputs` adds to the outputs of a node already.

    Args:
        node: The node.
        offsets: As many numbers as `correctable` says.
        fresh_name: What gives names that nothing in the graph has.
    """
    owner, place = _holder(node)
    known = owner.inputs[place]
    shaped = offsets.reshape(known.shape) if known.values.size == offsets.size else offsets
    owner.inputs[place] = gs.Constant(fresh_name(known.name), known.values + shaped)


def added_to(node: gs.Node) -> gs.Constant:
    """The constant that has in it what `add_to_outputs` has added to the outputs of a node."""
    owner, place = _holder(node)
    return owner.inputs[place]


def _holder(node: gs.Node) -> tuple[gs.Node, int]:
    """The node that adds to the outputs of one that is corrected already, and which of its inputs it adds."""
    if _bias(node) is not None:
        return node, _bias_place(node)
    (behind,) = node.outputs[0].outputs
    return behind, 1


def _bias_place(node: gs.Node) -> int:
    return 3 if is_operator(node, *RECURRENT) else 2


def _bias(node: gs.Node) -> Array | None:
    return None if node.op == "MatMul" else constant(operand(node, _bias_place(node)))


def _add(node: gs.Node, offsets: Array, uses: Uses) -> None:
    place, known = _bias_place(node), _bias(node)
    if node.op == "MatMul" or (known is None and operand(node, place) is not None):
        _add_behind(node, offsets, uses)
        return
    if is_operator(node, *RECURRENT):
        offsets = offsets.reshape(int(node.inputs[1].shape[0]), -1)
    beta = np.float32(node.attrs.pop("beta", 1))  # of Gemm
    summed = offsets if known is None else beta * known + offsets
    while len(node.inputs) <= place:
        node.inputs.append(gs.Variable.empty())
    node.inputs[place] = gs.Constant(uses.fresh_name(f"{node.name}_bias"), summed.astype(np.float32))


def _add_behind(node: gs.Node, offsets: Array, uses: Uses) -> None:
    result = node.outputs[0]
    node.outputs[0] = gs.Variable(uses.fresh_name(f"{result.name}_uncorrected"), result.dtype, result.shape)
    behind = len(result.shape) - 2 if node.op in ("Conv", "ConvTranspose") else 0
    offset = gs.Constant(uses.fresh_name(f"{node.name}_correction"), offsets.reshape(-1, *[1] * behind))
    inputs = [node.outputs[0], offset]
    uses.insert_after(node, gs.Node("Add", uses.fresh_name(f"{node.name}_corrected"), {}, inputs, [result]))
