"""Whether two graphs are the same: how the pass manager knows that a pass changed something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph


def same_graph(one: Graph, other: Graph) -> bool:
    """Whether both graphs have the same nodes, tensors by name, weights, inputs, outputs and functions.

    Inferred shapes and types do not count.
    """
    return _same_scope(one.gs, other.gs) and _same_sequence(one.gs.functions, other.gs.functions)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    if isinstance(one, gs.Node) and isinstance(other, gs.Node):
        return _same_node(one, other)
    if isinstance(one, gs.Tensor) and isinstance(other, gs.Tensor):
        return same_tensor(one, other)
    if isinstance(one, gs.Graph) and isinstance(other, gs.Graph):
        return _same_scope(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _same_array(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return _same_sequence(one, other)
    # Attributes that are NaN are the same attribute.
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


def _same_sequence(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(map(_same, one, other))


def _same_scope(one: gs.Graph, other: gs.Graph) -> bool:
    return (
        one.name == other.name
        and _same_sequence(one.inputs, other.inputs)
        and _same_sequence(one.outputs, other.outputs)
        and _same_sequence(one.nodes, other.nodes)
    )


def _same_node(one: gs.Node, other: gs.Node) -> bool:
    return (
        (one.op, one.domain or "", one.name) == (other.op, other.domain or "", other.name)
        and _same_sequence(one.inputs, other.inputs)
        and _same_sequence(one.outputs, other.outputs)
        and one.attrs.keys() == other.attrs.keys()
        and all(_same(value, other.attrs[key]) for key, value in one.attrs.items())
    )


def same_tensor(one: gs.Tensor, other: gs.Tensor) -> bool:
    """Whether both tensors have the same name, and the same value where they are constants."""
    if one.name != other.name or isinstance(one, gs.Constant) != isinstance(other, gs.Constant):
        return False
    return not isinstance(one, gs.Constant) or one._values is other._values or _same_array(one.values, other.values)


def _same_array(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
