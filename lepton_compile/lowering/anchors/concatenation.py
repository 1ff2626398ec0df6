"""Concat."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te

from lepton_compile.kernels.elementwise import Part, elementwise
from lepton_compile.kernels.kernel import Epilogue, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


@anchor("Concat")
def concatenation(scope: Scope, operation: Operation, *parts: te.Tensor) -> Lowered:
    """Concat: every operand is written to its place in the result."""
    shapes = [shape_of(part) for part in parts]
    rank = len(shapes[0])
    axis = int(operation.attribute("axis")) % rank
    shape = [*shapes[0][:axis], sum(each[axis] for each in shapes), *shapes[0][axis + 1 :]]
    builder = scope.builder
    blocked = rank >= 3 and any(scope.layout(part).block for part in parts)
    layout = builder.blocked if blocked else PLAIN

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        offset = 0
        for part, extents in zip(parts, shapes, strict=True):
            if extents[axis]:
                operands, buffers = scope.operands(part, layout)
                placed = Part(tuple(shape), axis, offset)
                definition = elementwise(scope.copy_of(part), layout, operands, builder.machine, placed)
                builder.call(definition, buffers, [result], scope.nodes)
            offset += extents[axis]

    return scope.open(shape, str(parts[0].dtype), Anchor(layout, emit, takes_epilogue=False))
