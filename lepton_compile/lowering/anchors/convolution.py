"""Conv: in a register tile, or, with one input and one output channel per group, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import convolution as conv
from lepton_compile.kernels.convolution_plan import convolution_of, packed_weights
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.pooling import DEPTHWISE, pack_depthwise, sliding_window
from lepton_compile.kernels.window import ConvolutionShape
from lepton_compile.lowering.anchors import algorithms
from lepton_compile.lowering.anchors.algorithms import ConvolutionProblem
from lepton_compile.lowering.anchors.bfloat16 import bfloat16_convolution
from lepton_compile.lowering.anchors.channel_order import FEW_CHANNELS, channels_of
from lepton_compile.lowering.anchors.quantized_convolution import quantized_convolution
from lepton_compile.lowering.anchors.quantized_weights import small_weights
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.anchors.windows import convolution_windows, output_shape
from lepton_compile.lowering.linear import linear_of
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation, operator
from lepton_compile.lowering.operators.pointwise import convert, dtype_of, load, widen
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


def with_bias(scope: Scope, value: te.Tensor, bias: te.Tensor | None) -> te.Tensor:
    """Add one number per channel (axis 1)."""
    if bias is None:
        return value
    rank = len(value.shape)
    known = scope.known(bias)
    if known is not None:
        spread = scope.constant(known.reshape((1, -1) + (1,) * (rank - 2)))
        at: Callable[..., tuple[tirx.Expr | int, ...]] = lambda *i: (0, i[1], *[0] * (rank - 2))  # noqa: E731
        biased = te.compute(value.shape, lambda *i: value(*i) + spread(*at(*i)), name="biased")
        form = linear_of(scope, value)
        return biased if form is None else scope.note(biased, form.shifted(scope.value(spread).astype(np.float64)))
    return te.compute(value.shape, lambda *i: value(*i) + bias(i[1] if len(bias.shape) else ()), name="biased")


@anchor("Conv")
def convolution(
    scope: Scope, operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None
) -> Lowered:
    """Conv: in a register tile, or, with one input and one output channel per group, channel by channel."""
    if str(x.dtype) != "float32":
        return None
    image, taps = scope.quantized(x), scope.quantized(w)
    if image is not None and taps is not None:
        summed = quantized_convolution(scope, operation, image, taps)
        if summed is not None:
            return with_bias(scope, summed, bias)
    summed = bfloat16_convolution(scope, operation, x, w)
    if summed is not None:
        return with_bias(scope, summed, bias)
    batch, channels, *spatial = shape_of(x)
    outputs, per_group, *kernel = shape_of(w)
    groups = int(operation.attribute("group", 1))
    windows = convolution_windows(operation, spatial, kernel)
    shape = output_shape(operation, batch, outputs, windows)
    short = small_weights(scope, taps, 0)
    known = scope.literal_or_known(w) if short is None else short.values
    depthwise = groups == channels == outputs and known is not None and groups > 1
    narrow = scope.narrow(x)
    stored = x if narrow is None else narrow
    if image is not None and image.of_bytes and scope.literal_or_known(x) is None:
        stored = image.values

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        builder, machine = scope.builder, scope.builder.machine
        if depthwise:
            assert known is not None
            source = scope.in_layout(stored, builder.blocked)
            weights = builder.weight(pack_depthwise(known, machine))
            definition = sliding_window(
                DEPTHWISE, windows, x, Source(stored, source.layout), epilogue, machine, weights_dtype=weights.dtype
            )
            builder.call(definition, [source, weights, *sources], [result], scope.nodes)
            return
        few = channels < FEW_CHANNELS and groups == 1 and scope.is_plain(x)
        of = ConvolutionShape(batch, per_group, outputs // groups, groups, tuple(windows))
        if known is not None:
            algorithms.emit(scope, ConvolutionProblem(of, few), x, known, epilogue, sources, result)
            return
        channels_read = channels_of(scope, x, few)
        shapes = convolution_of(of, machine)
        definition = conv.convolution(shapes, channels_read.source, epilogue, machine, channels_read.order)
        scope.to_memory(w)
        packed = scope.to_memory(packed_weights(w, shapes, machine))
        image, *order = channels_read.buffers
        builder.call(definition, [image, packed, *order, *sources], [result], scope.nodes)

    value = scope.open(shape, "float32", Anchor(scope.builder.blocked, emit))
    return with_bias(scope, value if short is None else scaled(scope, value, short.scales), bias)


def scaled(scope: Scope, value: te.Tensor, factors: Array) -> te.Tensor:
    """Multiply by one number per channel (axis 1)."""
    rest = len(value.shape) - 2
    spread = scope.constant(factors.reshape(1, -1, *[1] * rest))
    return te.compute(value.shape, lambda *i: value(*i) * spread(0, i[1], *[0] * rest), name="scaled")


@operator("Conv")
def plain_convolution(operation: Operation, x: te.Tensor, w: te.Tensor, bias: te.Tensor | None = None) -> te.Tensor:
    """Conv of other types than float32."""
    result = sum_of_taps(operation, widen(x), widen(w))
    if bias is not None:
        wide, added = result, widen(bias)
        result = te.compute(wide.shape, lambda *i: load(wide, *i) + load(added, i[1]), name="biased")
    return convert(result, dtype_of(x))


@operator("ConvInteger")
def integer_convolution(
    operation: Operation,
    x: te.Tensor,
    w: te.Tensor,
    x_zero: te.Tensor | None = None,
    w_zero: te.Tensor | None = None,
) -> te.Tensor:
    """ConvInteger: zero points are taken off first, so that padding, which stands for the zero point, adds nothing."""
    return sum_of_taps(operation, without_zero_point(x, x_zero), without_zero_point(w, w_zero))


def without_zero_point(x: te.Tensor, zero: te.Tensor | None) -> te.Tensor:
    """An int32 tensor of what integers stand for; a zero point per output channel (axis 0) is one per element there."""
    if zero is None:
        return convert(x, "int32")
    axes = len(zero.shape)

    def element(*i: tirx.Expr) -> tirx.Expr:
        at = [i[0] if int(zero.shape[0]) > 1 else 0] if axes else []
        return load(x, *i).astype("int32") - load(zero, *at).astype("int32")

    return te.compute(x.shape, element, name="centred")


def sum_of_taps(operation: Operation, x: te.Tensor, w: te.Tensor) -> te.Tensor:
    """The sum over input channels and taps, of any type."""
    batch, _, *spatial = shape_of(x)
    outputs, per_group, *kernel = shape_of(w)
    windows = convolution_windows(operation, spatial, kernel)
    each = outputs // int(operation.attribute("group", 1))
    channel = te.reduce_axis((0, per_group), name="channel")
    taps = [te.reduce_axis((0, size), name=f"tap{axis}") for axis, size in enumerate(kernel)]

    def element(n: tirx.Expr, c: tirx.Expr, *positions: tirx.Expr) -> tirx.Expr:
        at = [
            p * window.stride - window.pad + tap.var * window.dilation
            for p, tap, window in zip(positions, taps, windows, strict=True)
        ]
        inside = tirx.all(*(tirx.all(i >= 0, i < size) for i, size in zip(at, spatial, strict=True)))
        seen = load(x, n, tirx.floordiv(c, each) * per_group + channel.var, *at)
        zero = tirx.const(0, dtype_of(x))
        weight = load(w, c, channel.var, *(tap.var for tap in taps))
        return te.sum(tirx.if_then_else(inside, seen, zero) * weight, axis=[channel, *taps])

    return te.compute(output_shape(operation, batch, outputs, windows), element, name="convolution")
