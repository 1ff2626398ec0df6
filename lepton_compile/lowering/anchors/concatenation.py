"""Concat."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import te

from lepton_compile.kernels.elementwise import Part, elementwise
from lepton_compile.kernels.kernel import Epilogue, shape_of
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.loops import itemsize
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


@anchor("Concat")
def concatenation(scope: Scope, operation: Operation, *parts: te.Tensor) -> Lowered:
    """Concat: every operand is written to its place in the result.

    A place that is a range of the result's memory is a buffer of its own, which the operand may then be computed into
    (`lepton_compile.lowering.placement`).
    """
    shapes = [shape_of(part) for part in parts]
    rank = len(shapes[0])
    axis = int(operation.attribute("axis")) % rank
    shape = (*shapes[0][:axis], sum(each[axis] for each in shapes), *shapes[0][axis + 1 :])
    builder = scope.builder
    blocked = rank >= 3 and any(scope.layout(part).block for part in parts)
    layout = builder.blocked if blocked else PLAIN

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        offset = 0
        for part, extents in zip(parts, shapes, strict=True):
            if extents[axis]:
                operands, buffers = scope.operands(part, layout)
                place, written = Part(shape, axis, offset), result
                first = first_element(place, extents, layout)
                if first is not None:
                    written = builder.view(result, extents, None, layout, offset=first * itemsize(result.dtype))
                definition = elementwise(
                    scope.copy_of(part), layout, operands, builder.machine, place if first is None else None
                )
                builder.call(definition, buffers, [written], scope.nodes)
            offset += extents[axis]

    return scope.open(shape, str(parts[0].dtype), Anchor(layout, emit, takes_epilogue=False))


def first_element(place: Part, extents: tuple[int, ...], layout: Layout) -> int | None:
    """Where in the memory of the whole a part begins, in elements, if it is a range of it with no gaps."""
    whole, part = layout.physical_shape(place.shape), layout.physical_shape(extents)
    if math.prod(whole[: place.axis]) != 1:
        return None
    offset = place.offset
    if layout.block and place.axis == 1:
        ends = offset + extents[1] == place.shape[1]
        if offset % layout.block or (extents[1] % layout.block and not ends):
            return None
        offset //= layout.block
    return offset * math.prod(part[place.axis + 1 :])
