"""Convolutions that read channels in another order than they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels.expressions import evaluate, identity, is_inlined
from lepton_compile.kernels.kernel import Source, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Scope

FEW_CHANNELS = 8
"""Inputs of fewer channels than this are read as they come: a block would be mostly padding."""


@dataclass(frozen=True)
class Channels:
    """What a convolution reads.

    Attributes:
        source: The tensor in memory.
        order: Which of its channels each input channel is; None if they are the same.
        buffers: Where the source and, if there is one, the order are.
    """

    source: Source
    order: Source | None
    buffers: tuple[Buffer, ...]


def channels_of(scope: Scope, x: te.Tensor, plain: bool) -> Channels:
    """What a convolution of `x` reads: `x`, or what its channels are gathered from; blocked unless it may be plain."""
    moved = reordered(scope, x)
    image = moved[0] if moved else x
    buffer = scope.to_memory(image) if plain else scope.in_layout(image, scope.builder.blocked)
    source = Source(image, buffer.layout)
    if moved is None:
        return Channels(source, None, (buffer,))
    return Channels(source, Source(scope.constant(moved[1]), PLAIN), (buffer, scope.builder.weight(moved[1])))


def reordered(scope: Scope, x: te.Tensor) -> tuple[te.Tensor, Array] | None:
    """What `x` gathers the channels of, and which of these each channel of `x` is (int32).

    None if `x` is anything but the channels of one other tensor, at constant indices.
    """
    if not is_inlined(x) or scope.stored(x) is not None:
        return None
    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(x.shape))]
    loads: list[tuple[te.Tensor, list[tirx.Expr], tirx.Var]] = []

    def record(leaf: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
        loads.append((leaf, at, tirx.Var("value", str(leaf.dtype))))
        return loads[-1][2]

    value = evaluate(x, variables, record)
    if len(loads) != 2 or identity(value) != identity(loads[1][2]):
        return None
    (indices, place, index), (source, at, _) = loads
    order = scope.known(indices)
    others = [axis for axis in range(len(variables)) if axis != 1]
    if order is None or len(place) != 1 or len(at) != len(variables) or identity(place[0]) != identity(variables[1]):
        return None
    if any(identity(at[axis]) != identity(variables[axis]) for axis in others):
        return None
    # Nothing but the index itself, converted perhaps.
    channel = at[1].value if isinstance(at[1], tirx.Cast) else at[1]
    if identity(channel) != identity(index) or order.min() < 0 or order.max() >= shape_of(source)[1]:
        return None
    return source, order.astype(np.int32)
