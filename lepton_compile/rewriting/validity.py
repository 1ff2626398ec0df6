"""What holds of every graph between passes, whoever wrote the pass."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from lepton_compile.errors import LeptonError
from lepton_compile.model import Graph
from lepton_compile.model.shapes import require_static
from lepton_compile.model.to_onnx import constants
from lepton_compile.model.traversal import walk
from lepton_compile.rewriting.equality import same_tensor


def why_invalid(before: Graph, after: Graph) -> str:
    """Why `after`, which a pass made of `before`, must not be taken over; "" if it may.

    It has to be valid ONNX with the same inputs and outputs, and every tensor has to have a static shape. Its shapes
    are inferred anew.
    """
    if name := _ambiguous_constant(after):
        return f"left two different constants that are both called '{name}'"
    try:
        after.check()
        after.infer_shapes()
        require_static(after.gs)
    except LeptonError as error:
        return f"left a graph that is not valid: {error}"
    except Exception as error:  # what the writer of the graph says to an attribute or tensor that it cannot write
        return f"left a graph that cannot be written as ONNX: {type(error).__name__}: {error}"
    for kind, expected, actual in (
        ("inputs", _interface(before.gs.inputs), _interface(after.gs.inputs)),
        ("outputs", _interface(before.gs.outputs), _interface(after.gs.outputs)),
    ):
        if actual != expected:
            return f"changed the {kind} of the model: {', '.join(expected)} became {', '.join(actual) or 'none'}"
    return ""


def _ambiguous_constant(graph: Graph) -> str:
    """The name of a constant that another, different one has as well: only one of them would be written."""
    by_name = {constant.name: constant for constant in constants(graph.gs)}
    for node in walk(graph.gs):
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and not same_tensor(tensor, by_name[tensor.name]):
                return str(tensor.name)
    return ""


def _interface(tensors: Iterable[gs.Tensor]) -> list[str]:
    return [f"{tensor.name} ({tensor.dtype} {list(tensor.shape or ())})" for tensor in tensors]
