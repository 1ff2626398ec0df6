"""Normalisations: by statistics that are given, or by those of the input itself. Half types are computed in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import (
    broadcast_load,
    cast,
    convert,
    dtype_of,
    load,
    normalise_axis,
    pointwise,
    shape_of,
    widen,
)
from lepton_compile.lowering.operators.reduction import maximum, mean_over, reduce_axes, square, variance_over
from lepton_compile.lowering.operators.registry import Operation, operator
from lepton_compile.lowering.operators.shape import reshape_to


def _per_channel(x: te.Tensor, rank: int) -> te.Tensor:
    """A vector over channels as a tensor that broadcasts against N, C, spatial..."""
    return reshape_to(widen(x), (shape_of(x)[0], *[1] * (rank - 2)))


def _inverse_deviation(variance: te.Tensor, epsilon: float) -> te.Tensor:
    dtype = dtype_of(variance)
    return pointwise(
        lambda v: tirx.const(1, dtype) / tirx.sqrt(v + tirx.const(epsilon, dtype)), variance, name="inverse_deviation"
    )


def _standardised(x: te.Tensor, axes: Sequence[int], epsilon: float) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """(x - mean) / sqrt(variance + epsilon), and the mean and the reciprocal root it was made with."""
    mean = mean_over(x, axes)
    scale = _inverse_deviation(variance_over(x, mean, axes), epsilon)
    return pointwise(lambda v, m, s: (v - m) * s, x, mean, scale, name="standardised"), mean, scale


def _affine(x: te.Tensor, scale: te.Tensor | None, bias: te.Tensor | None) -> te.Tensor:
    if scale is None:
        return x
    if bias is None:
        return pointwise(lambda v, a: v * a, x, scale, name="scaled")
    return pointwise(lambda v, a, b: v * a + b, x, scale, bias, name="scaled")


@operator("BatchNormalization")
def batch_normalization(
    node: Operation, x: te.Tensor, scale: te.Tensor, bias: te.Tensor, mean: te.Tensor, variance: te.Tensor
) -> te.Tensor:
    """Scale and bias per channel, from the statistics of training."""
    if node.attribute("training_mode", 0):
        raise node.unsupported("training mode is not supported")
    rank = max(len(x.shape), 2)
    a, b, m, v = (_per_channel(t, rank) for t in (scale, bias, mean, variance))
    factor = pointwise(lambda a, s: a * s, a, _inverse_deviation(v, node.attribute("epsilon", 1e-5)), name="factor")
    offset = pointwise(lambda b, m, f: b - m * f, b, m, factor, name="offset")
    return convert(_affine(widen(x), factor, offset), dtype_of(x))


@operator("InstanceNormalization")
def instance_normalization(node: Operation, x: te.Tensor, scale: te.Tensor, bias: te.Tensor) -> te.Tensor:
    """Every channel of every sample by its own statistics."""
    rank = len(x.shape)
    result, *_ = _standardised(widen(x), range(2, rank), node.attribute("epsilon", 1e-5))
    return convert(_affine(result, _per_channel(scale, rank), _per_channel(bias, rank)), dtype_of(x))


@operator("LayerNormalization")
def layer_normalization(
    node: Operation, x: te.Tensor, scale: te.Tensor, bias: te.Tensor | None = None
) -> tuple[te.Tensor, ...]:
    """All axes from `axis` on by their own statistics; also the mean and the reciprocal deviation if asked for."""
    axes = range(normalise_axis(node.attribute("axis", -1), len(x.shape)), len(x.shape))
    result, mean, inverse = _standardised(widen(x), axes, node.attribute("epsilon", 1e-5))
    scaled = _affine(result, widen(scale), None if bias is None else widen(bias))
    return (convert(scaled, dtype_of(x)), mean, inverse)[: node.outputs]


@operator("RMSNormalization")
def rms_normalization(node: Operation, x: te.Tensor, scale: te.Tensor) -> te.Tensor:
    """X / sqrt(mean(x^2) + epsilon) * scale over all axes from `axis` on."""
    shape = shape_of(x)
    axes = range(normalise_axis(node.attribute("axis", -1), len(shape)), len(shape))
    wide = widen(x)
    count = math.prod(shape[axis] for axis in axes)
    squares = reduce_axes(wide, axes, of=square, name="squares")
    mean = pointwise(lambda v: v * tirx.const(1 / count, dtype_of(wide)), squares, name="mean_square")
    inverse = _inverse_deviation(mean, node.attribute("epsilon", 1e-5))
    return convert(pointwise(lambda v, s, a: v * s * a, wide, inverse, widen(scale), name="scaled"), dtype_of(x))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Operation, x: te.Tensor) -> te.Tensor:
    """(x - mean) / (deviation + 1e-9) over the axes named, by default all but channels."""
    axes = [normalise_axis(axis, len(x.shape)) for axis in node.attribute("axes", (0, 2, 3))]
    wide = widen(x)
    mean = mean_over(wide, axes)
    variance = variance_over(wide, mean, axes)
    epsilon = tirx.const(1e-9, dtype_of(wide))
    return convert(
        pointwise(lambda v, m, s: (v - m) / (tirx.sqrt(s) + epsilon), wide, mean, variance, name="mvn"), dtype_of(x)
    )


@operator("LpNormalization")
def lp_normalization(node: Operation, x: te.Tensor) -> te.Tensor:
    """X over its 1- or 2-norm along an axis; a zero norm gives zeros, as in onnxruntime."""
    axis = normalise_axis(node.attribute("axis", -1), len(x.shape))
    euclidean = node.attribute("p", 2) == 2
    wide = widen(x)
    total = reduce_axes(wide, [axis], of=square if euclidean else tirx.abs, name="total")
    norm = pointwise(tirx.sqrt, total, name="norm") if euclidean else total
    zero = tirx.const(0, dtype_of(wide))
    return convert(
        pointwise(lambda v, n: let(n, lambda n: tirx.Select(n == zero, zero, v / n)), wide, norm, name="lp_normalized"),
        dtype_of(x),
    )


def _to_minus(x: tirx.Expr, beta: float) -> tirx.Expr:
    """X ** -beta for x > 0; 3/4, which every network uses, by two square roots."""
    if beta == 0.75:
        return let(tirx.sqrt(x), lambda r: tirx.const(1, str(x.expr_ty())) / (r * tirx.sqrt(r)))
    if beta in (0.5, 1.0):
        return vector_math.power(x, -beta)
    return vector_math.exp(vector_math.log(x) * tirx.const(-beta, str(x.expr_ty())))


@operator("LRN")
def local_response_normalization(node: Operation, x: te.Tensor) -> te.Tensor:
    """X / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta (Krizhevsky et al., 2012).

    The window is a handful of channels: a sum written out, which needs no kernel and no buffer of its own.
    """
    shape, dtype = shape_of(x), dtype_of(x)
    size, alpha = int(node.attribute("size")), node.attribute("alpha", 1e-4)
    beta, bias = node.attribute("beta", 0.75), node.attribute("bias", 1.0)
    wide = widen(x)
    kind = dtype_of(wide)
    channels, before = shape[1], (size - 1) // 2

    def squared(i: tuple[tirx.Expr, ...], shift: int) -> tirx.Expr:
        channel = i[1] + shift
        value = square(load(wide, i[0], channel, *i[2:]))
        if shift == 0:
            return value
        inside = channel >= 0 if shift < 0 else channel < channels
        return tirx.if_then_else(inside, value, tirx.const(0, kind))

    def element(*i: tirx.Expr) -> tirx.Expr:
        total = tirx.const(0, kind)
        for shift in range(-before, size - before):
            total = total + squared(i, shift)
        base = total * tirx.const(alpha / size, kind) + tirx.const(bias, kind)
        return cast(broadcast_load(wide, i) * _to_minus(base, beta), dtype)

    return te.compute(shape, element, name="lrn")


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Operation, x: te.Tensor) -> te.Tensor:
    """One value per channel: the mean, the largest element or the p-norm of all positions."""
    axes = range(2, len(x.shape))
    wide = widen(x)
    if node.op_type == "GlobalAveragePool":
        return convert(mean_over(wide, axes), dtype_of(x))
    if node.op_type == "GlobalMaxPool":
        return convert(reduce_axes(wide, axes, maximum, name="max"), dtype_of(x))
    p = float(node.attribute("p", 2))
    total = reduce_axes(wide, axes, of=lambda v: vector_math.power(tirx.abs(v), p), name="total")
    return convert(pointwise(lambda v: vector_math.power(v, 1 / p), total, name="norm"), dtype_of(x))
