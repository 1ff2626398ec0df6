"""What kernels of bfloat16 know of their operands: which float32 tensors hold numbers that bfloat16 has.

A computed operand is a Cast to bfloat16 and back; a known one holds such numbers. Where the processor has no
instruction that multiplies them, or a kernel does not take the shape, float32 is computed with: the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tvm import te

from lepton_compile.kernels import dot_convolution as kernel
from lepton_compile.kernels.convolution_plan import convolution_of
from lepton_compile.kernels.dot_product import PAIRS
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.window import ConvolutionShape
from lepton_compile.lowering.anchors.channel_order import FEW_CHANNELS
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.anchors.windows import convolution_windows, output_shape
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


@anchor("Cast")
def widening(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """A Cast from bfloat16 to float32."""
    if str(x.dtype) != "bfloat16":
        return None
    made = OPERATORS["Cast"](operation, x)
    assert isinstance(made, te.Tensor)
    return scope.widen(made, x) if str(made.dtype) == "float32" else made


def bits_of(values: Array) -> npt.NDArray[np.uint16] | None:
    """Float32 numbers as bfloat16 has them; None if some of them are none of its numbers."""
    if values.dtype != np.float32:
        return None
    bits = np.ascontiguousarray(values).view(np.uint32)
    return None if (bits & 0xFFFF).any() else (bits >> 16).astype(np.uint16)


def narrow_operands(scope: Scope, a: te.Tensor, b: te.Tensor) -> tuple[te.Tensor, te.Tensor, Array | None] | None:
    """The operands of a product in bfloat16.

    Returns:
        The left one, the right one, and the right one's bits if it is known; None where the processor does not multiply
        bfloat16, or one of them holds other numbers.
    """
    left = scope.narrow(a) if scope.builder.machine.bfloat16_dot_products else None
    if left is None:
        return None
    known = scope.literal_or_known(b)
    if known is not None:
        bits = bits_of(known)
        return None if bits is None else (left, b, bits)
    right = scope.narrow(b)
    return None if right is None else (left, right, None)


def bfloat16_convolution(scope: Scope, operation: Operation, x: te.Tensor, w: te.Tensor) -> te.Tensor | None:
    """A Conv of bfloat16 numbers, without its bias.

    Returns:
        The float32 result, an anchor that is still open; None where the family does not take it: processors that have
        no instruction for it; operands that hold other numbers; weights that are computed; few channels, an odd number
        of them, or groups that are no whole vectors.
    """
    machine, builder = scope.builder.machine, scope.builder
    narrow = scope.narrow(x) if machine.bfloat16_dot_products else None
    known = scope.literal_or_known(w)
    bits = bits_of(known) if narrow is not None and known is not None else None
    if narrow is None or bits is None:
        return None
    batch, channels, *spatial = shape_of(x)
    outputs, per_group, *taps = bits.shape
    groups = channels // per_group
    if groups > 1 and (per_group % machine.lanes or (outputs // groups) % machine.lanes):
        return None
    # Neighbouring channels of a plain input are no words; and the lane behind an odd channel may hold infinity, which
    # times zero is no number.
    if channels < FEW_CHANNELS or per_group % PAIRS.count:
        return None
    windows = convolution_windows(operation, spatial, taps)
    of = ConvolutionShape(batch, per_group, outputs // groups, groups, tuple(windows))
    shapes = convolution_of(of, machine)

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        source = scope.in_layout(narrow, builder.blocked)
        packed = builder.weight(kernel.pack_weights(PAIRS, bits, shapes, machine))
        definition = kernel.dot_convolution(PAIRS, shapes, Source(narrow, source.layout), epilogue, machine)
        builder.call(definition, [source, packed, *sources], [result], scope.nodes)

    return scope.open(output_shape(operation, batch, outputs, windows), "float32", Anchor(builder.blocked, emit))
