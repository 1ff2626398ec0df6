"""Conv of numbers that come as bytes: summed as bytes, and what scales and zero points do is the epilogue's.

With x = (p - z) s and w = q t, the sum over the taps inside the input is s t (sum of p q - z * sum of q): the second
sum is known at compile time, for each way in which a window may lie across the border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import dot_convolution as kernel
from lepton_compile.kernels.convolution_plan import convolution_of
from lepton_compile.kernels.dot_product import BYTES, LARGEST_SUM
from lepton_compile.kernels.integer_depthwise import integer_depthwise
from lepton_compile.kernels.integer_depthwise import pack_weights as pack_depthwise
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.window import ConvolutionShape, Window
from lepton_compile.lowering.anchors.quantized_weights import (
    counted_zero,
    largest_sums,
    scales_of_sums,
    signed_weights,
)
from lepton_compile.lowering.anchors.windows import convolution_windows, output_shape
from lepton_compile.lowering.linear import linear_in
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Quantized, Scope


def quantized_convolution(scope: Scope, operation: Operation, x: Quantized, w: Quantized) -> te.Tensor | None:
    """A Conv of dequantized tensors, without its bias.

    Returns:
        The float32 result, over an anchor that is still open; None where the family does not take it: processors that
        have no instruction for it, on which float32 is faster; weights that are computed, differ from their zero points
        by more than a signed byte holds, or have scales along another axis; groups of channels that are no whole
        vectors; sums that could overflow.
    """
    weights = signed_weights(scope, w, 0) if scope.builder.machine.dot_products else None
    if weights is None or not x.of_bytes:
        return None
    builder, machine = scope.builder, scope.builder.machine
    batch, channels, *spatial = shape_of(x.values)
    outputs, per_group, *taps = weights.shape
    groups = channels // per_group
    depthwise = groups == channels == outputs and groups > 1
    windows = convolution_windows(operation, spatial, taps)
    if depthwise and (windows[-1].dilation > 1 or windows[-1].kernel == 1):
        return None
    if not depthwise and groups > 1 and (per_group % machine.lanes or (outputs // groups) % machine.lanes):
        return None
    if per_group * int(np.prod(taps)) > LARGEST_SUM:
        return None
    of = ConvolutionShape(batch, per_group, outputs // groups, groups, tuple(windows))
    shapes = convolution_of(of, machine)
    shape = output_shape(operation, batch, outputs, windows)

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        # Few channels are one word a pixel.
        few = channels <= BYTES.count and not depthwise
        source = scope.in_layout(x.values, Layout(BYTES.count) if few else builder.blocked)
        if depthwise:
            packed = builder.weight(pack_depthwise(weights, machine.lanes))
            definition = integer_depthwise(windows, Source(x.values, source.layout), epilogue, machine)
            builder.call(definition, [source, packed, *sources], [result], scope.nodes)
            return
        packed = builder.weight(kernel.pack_weights(BYTES, weights, shapes, machine))
        definition = kernel.dot_convolution(BYTES, shapes, Source(x.values, source.layout), epilogue, machine)
        builder.call(definition, [source, packed, *sources], [result], scope.nodes)

    sums = scope.open(shape, "int32", Anchor(builder.blocked, emit))
    zero = counted_zero(x, machine)
    if zero:
        sums = _without_zero_point(scope, sums, zero * weights.astype(np.int64).sum(axis=1), windows)
    scales = scales_of_sums(x, w, outputs).reshape(1, -1, *(1 for _ in spatial))
    factors = scope.constant(scales)
    ones = [0] * len(spatial)
    scaled = te.compute(
        shape, lambda n, c, *at: sums(n, c, *at).astype("float32") * factors(0, c, *ones), name="scaled"
    )
    return scope.note(scaled, linear_in(sums, scales, largest_sums(weights, 0).reshape(scales.shape)))


def _without_zero_point(scope: Scope, sums: te.Tensor, offsets: Array, windows: Sequence[Window]) -> te.Tensor:
    """Sums less the offsets, of shape (channels, taps...), of the taps that each window has inside the input."""
    runs = [_runs(window) for window in windows]
    for axis, (window, positions) in enumerate(zip(windows, runs, strict=True), 1):
        inside = [[window.inside(p, tap) for tap in range(window.kernel)] for p in positions]
        offsets = np.moveaxis(np.tensordot(offsets, np.array(inside, np.int64), (axis, 1)), -1, axis)
    table = scope.constant(offsets.astype(np.int32)[None])

    def element(n: tirx.Expr, c: tirx.Expr, *at: tirx.Expr) -> tirx.Expr:
        rows = [_row(p, window, len(run)) for p, window, run in zip(at, windows, runs, strict=True)]
        return sums(n, c, *at) - table(0, c, *rows)

    return te.compute(sums.shape, element, name="centred")


def _runs(window: Window) -> list[int]:
    """One position for each row of the table: those near the borders on their own, those between them together."""
    first, last = _inner(window)
    return [*range(first), *range(first, min(first + 1, last)), *range(last, window.positions)]


def _inner(window: Window) -> tuple[int, int]:
    """The positions between the borders, whose taps are all inside; an empty range if there are none."""
    whole = [p for p in range(window.positions) if not window.sees_outside(p)]
    return (whole[0], whole[-1] + 1) if whole else (window.positions, window.positions)


def _row(position: tirx.Expr, window: Window, rows: int) -> tirx.Expr:
    """The row of the table for a position."""
    first, last = _inner(window)
    if rows == 1:
        return tirx.const(0, "int32")
    return position if first == last else position - tirx.max(0, tirx.min(position, last - 1) - first)
