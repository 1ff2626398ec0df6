"""ConvTranspose: a few convolutions, each of which computes every stride-th output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import convolution as conv
from lepton_compile.kernels.convolution_plan import convolution_of, pack_weights
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.window import ConvolutionShape, Window
from lepton_compile.lowering.anchors import algorithms
from lepton_compile.lowering.anchors.algorithms import ConvolutionProblem
from lepton_compile.lowering.anchors.convolution import scaled, with_bias
from lepton_compile.lowering.anchors.quantized_weights import small_weights
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.anchors.windows import steps_of
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation, operator
from lepton_compile.lowering.operators.pointwise import convert, dtype_of, load, widen
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


@anchor("ConvTranspose")
def transposed_convolution(
    scope: Scope, operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None
) -> Lowered:
    """ConvTranspose: one convolution for each residue of the output position by the stride.

    Output position s * i + r gets input i + (r + pad - tap * dilation) / s through every tap for which that is an
    integer.
    """
    short = small_weights(scope, scope.quantized(w), 1)
    known = scope.literal_or_known(w) if short is None else short.values
    if str(x.dtype) != "float32" or known is None:
        return None
    batch, channels, *spatial = shape_of(x)
    _, per_group, *kernel = shape_of(w)
    groups = int(operation.attribute("group", 1))
    strides, dilations = steps_of(operation, len(spatial))
    before, outputs = _pads(operation, spatial, kernel)
    # As a convolution from channels to outputs: swap the two channel axes inside each group.
    weights = known.reshape(groups, channels // groups, per_group, *kernel).swapaxes(1, 2)
    weights = weights.reshape(groups * per_group, channels // groups, *kernel)
    shape = [batch, groups * per_group, *outputs]

    def finished(value: te.Tensor) -> te.Tensor:
        if short is not None:
            value = scaled(scope, value, np.tile(short.scales, groups))
        return with_bias(scope, value, bias)

    apart = all(
        k == stride and dilation == 1 and size * stride == output and pad == 0
        for k, stride, dilation, size, output, pad in zip(
            kernel, strides, dilations, spatial, outputs, before, strict=True
        )
    )
    if apart and groups == 1 and per_group < scope.builder.machine.lanes // 2:
        return finished(_by_patches(scope, x, weights))

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        source = scope.in_layout(x, builder.blocked)
        for residues in np.ndindex(*strides):
            axes = [
                _window(*facts)
                for facts in zip(spatial, outputs, kernel, strides, dilations, before, residues, strict=True)
            ]
            windows = [window for window, _ in axes]
            if any(window.positions <= 0 for window in windows):
                continue
            taken = weights
            for axis, (_, taps) in enumerate(axes):
                taken = np.take(taken, taps or [0], axis=axis + 2)
            of = ConvolutionShape(batch, channels // groups, per_group, groups, tuple(windows))
            shapes = convolution_of(of, machine, dense=machine.small)
            packed = builder.weight(pack_weights(taken, shapes, machine))
            image = Source(x, source.layout)
            definition = conv.convolution(shapes, image, epilogue, machine, weights_dtype=packed.dtype)
            builder.call(definition, [source, packed, *sources], [result], scope.nodes)

    return finished(scope.open(shape, "float32", Anchor(scope.builder.blocked, emit)))


def _by_patches(scope: Scope, x: te.Tensor, weights: Array) -> te.Tensor:
    """A transposed convolution whose taps do not overlap, of few outputs: all residues in one vector of outputs.

    As a convolution of one tap to outputs * taps channels, of which each pixel is a patch of the result.
    """
    batch, channels, *spatial = shape_of(x)
    outputs, _, *kernel = weights.shape
    taps = math.prod(kernel)
    matrix = weights.reshape(outputs, channels, taps).swapaxes(1, 2).reshape(outputs * taps, channels)
    matrix = matrix.reshape(outputs * taps, channels, *[1] * len(spatial))
    of = ConvolutionShape(batch, channels, outputs * taps, 1, tuple(Window(size, size, 1) for size in spatial))

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        algorithms.emit(scope, ConvolutionProblem(of, few_channels=False), x, matrix, epilogue, sources, result)

    patches = scope.open((batch, outputs * taps, *spatial), "float32", Anchor(scope.builder.blocked, emit))

    def element(n: tirx.Expr, c: tirx.Expr, *at: tirx.Expr) -> tirx.Expr:
        tap: tirx.Expr = c
        for position, k in zip(at, kernel, strict=True):
            tap = tap * k + tirx.floormod(position, k)
        return patches(n, tap, *(tirx.floordiv(position, k) for position, k in zip(at, kernel, strict=True)))

    shape = (batch, outputs, *(size * k for size, k in zip(spatial, kernel, strict=True)))
    return te.compute(shape, element, name="patches")


def _pads(operation: Operation, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding in front and the output's extent along each axis."""
    rank = len(spatial)
    strides, dilations = steps_of(operation, rank)
    extra = list(operation.attribute("output_padding", [0] * rank))
    full = [
        (size - 1) * stride + dilation * (k - 1) + 1 + more
        for size, stride, dilation, k, more in zip(spatial, strides, dilations, kernel, extra, strict=True)
    ]
    automatic = operation.attribute("auto_pad", "NOTSET")
    wanted = operation.attribute("output_shape")
    if wanted is None and automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if wanted is None:
        pads = [0] * (2 * rank) if automatic == "VALID" else list(operation.attribute("pads", [0] * (2 * rank)))
        return pads[:rank], [size - a - b for size, a, b in zip(full, pads[:rank], pads[rank:], strict=True)]
    wanted = list(wanted)[-rank:]
    total = [max(0, size - want) for size, want in zip(full, wanted, strict=True)]
    lower = automatic == "SAME_LOWER" or (automatic != "SAME_UPPER" and wanted is not None)
    return [amount - amount // 2 if lower else amount // 2 for amount in total], wanted


def _window(
    size: int, output: int, kernel: int, stride: int, dilation: int, pad: int, residue: int
) -> tuple[Window, list[int]]:
    """The convolution along one axis for one residue, and which taps it has, in the order of the inputs they see.

    A residue that no tap reaches gets nothing but the bias: its window has one tap, which lies behind the input at
    every position. A weight of zero would not do, as zero times infinity is NaN.
    """
    seen = {
        (residue + pad - tap * dilation) // stride: tap
        for tap in range(kernel)
        if (residue + pad - tap * dilation) % stride == 0
    }
    offsets = sorted(seen)
    step = offsets[1] - offsets[0] if len(offsets) > 1 else 1
    window = Window(
        input=size,
        positions=-(-(output - residue) // stride),
        kernel=max(1, len(offsets)),
        dilation=step,
        pad=-offsets[0] if offsets else -size,
        step=stride,
        offset=residue,
    )
    return window, [seen[offset] for offset in offsets]


@operator("ConvTranspose")
def plain_transposed_convolution(
    operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None
) -> te.Tensor:
    """ConvTranspose of other types than float32, or with weights that are computed."""
    wide, weights = widen(x), widen(w)
    batch, channels, *spatial = shape_of(x)
    _, each, *kernel = shape_of(w)
    groups = int(operation.attribute("group", 1))
    strides, dilations = steps_of(operation, len(spatial))
    before, outputs = _pads(operation, spatial, kernel)
    per_group = channels // groups
    channel = te.reduce_axis((0, per_group), name="channel")
    taps = [te.reduce_axis((0, size), name=f"tap{axis}") for axis, size in enumerate(kernel)]

    def element(n: tirx.Expr, c: tirx.Expr, *positions: tirx.Expr) -> tirx.Expr:
        conditions, at = [], []
        for p, tap, pad, dilation, stride, size in zip(
            positions, taps, before, dilations, strides, spatial, strict=True
        ):
            place = p + pad - tap.var * dilation
            index = tirx.floordiv(place, stride)
            conditions += [tirx.floormod(place, stride) == 0, index >= 0, index < size]
            at.append(index)
        first = tirx.floordiv(c, each) * per_group + channel.var
        seen = tirx.if_then_else(tirx.all(*conditions), load(wide, n, first, *at), tirx.const(0, dtype_of(wide)))
        weight = load(weights, first, tirx.floormod(c, each), *(tap.var for tap in taps))
        return te.sum(seen * weight, axis=[channel, *taps])

    result = te.compute((batch, groups * each, *outputs), element, name="transposed")
    if bias is not None:
        total, added = result, widen(bias)
        result = te.compute(total.shape, lambda *i: load(total, *i) + load(added, i[1]), name="biased")
    return convert(result, dtype_of(x))
