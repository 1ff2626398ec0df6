"""Families: models of one interface in several sizes, of which the largest that fits is taken."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from lepton_compile.errors import ModelError
from lepton_compile.model import Graph
from lepton_compile.model.to_onnx import constants


def largest_first(graphs: Sequence[Graph], names: Sequence[str]) -> list[int]:
    """The places of a family's members, those of most weights first.

    Args:
        graphs: The members.
        names: What they are called.

    Raises:
        ModelError: There is none, or their inputs or outputs differ.
    """
    if not graphs:
        raise ModelError("a family needs at least one model")
    for graph, name in zip(graphs[1:], names[1:], strict=True):
        for kind in ("inputs", "outputs"):
            ours, theirs = (_told(getattr(each.gs, kind)) for each in (graphs[0], graph))
            if ours != theirs:
                raise ModelError(
                    f"the models of a family need the same {kind}: '{names[0]}' has {ours}, and '{name}' has {theirs}"
                )
    return sorted(range(len(graphs)), key=lambda place: -_weights(graphs[place]))


def _weights(graph: Graph) -> int:
    return sum(constant.values.size for constant in constants(graph.gs))


def _told(tensors: Sequence[gs.Tensor]) -> str:
    return ", ".join(f"{tensor.name}: {tensor.dtype}{list(tensor.shape)}" for tensor in tensors) or "none"
