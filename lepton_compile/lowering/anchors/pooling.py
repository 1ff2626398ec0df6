"""MaxPool and AveragePool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import te, tirx

from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.pooling import AVERAGE, MAXIMUM, sliding_window
from lepton_compile.kernels.window import Window
from lepton_compile.lowering.anchors.registry import Lowered, anchor
from lepton_compile.lowering.anchors.windows import output_shape, pooling_windows
from lepton_compile.lowering.operators import Operation, operator
from lepton_compile.lowering.operators.pointwise import convert, dtype_of, is_float, load, widen
from lepton_compile.lowering.operators.reduction import maximum
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Anchor, Scope


@anchor("MaxPool")
def max_pool(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """MaxPool without indices."""
    return None if operation.outputs > 1 else _pool(scope, operation, x, average=False)


@anchor("AveragePool")
def average_pool(scope: Scope, operation: Operation, x: te.Tensor) -> Lowered:
    """AveragePool, with or without padding counted."""
    return _pool(scope, operation, x, average=True)


def _pool(scope: Scope, operation: Operation, x: te.Tensor, *, average: bool) -> Lowered:
    if str(x.dtype) not in (("float32",) if average else ("float32", "uint8", "int8")):
        return None
    batch, channels, *spatial = shape_of(x)
    windows, padded = pooling_windows(operation, spatial)
    shape = output_shape(operation, batch, channels, windows)
    counted = padded if average and operation.attribute("count_include_pad", 0) else None
    image = scope.quantized(x)
    read_as_bytes = image is not None and image.of_bytes and scope.literal_or_known(x) is None
    stored = image.values if image is not None and read_as_bytes else x

    def emit(epilogue: Epilogue, sources: Sequence[Buffer], result: Buffer) -> None:
        source = scope.in_layout(stored, scope.builder.blocked)
        definition = sliding_window(
            AVERAGE if average else MAXIMUM,
            windows,
            x,
            Source(stored, source.layout),
            epilogue,
            scope.builder.machine,
            counts_padding=counted,
        )
        scope.builder.call(definition, [source, *sources], [result], scope.nodes)

    return scope.open(shape, str(x.dtype), Anchor(scope.builder.blocked, emit))


@operator("MaxPool")
def plain_max_pool(operation: Operation, x: te.Tensor) -> te.Tensor:
    """MaxPool of other types than float32 and bytes."""
    if operation.outputs > 1:
        raise operation.unsupported("the indices of the largest elements are not supported")
    wide = widen(x)
    dtype = dtype_of(wide)
    lowest = tirx.const(-math.inf, dtype) if is_float(dtype) else tirx.min_value(dtype)
    windows, _ = pooling_windows(operation, shape_of(x)[2:])
    return convert(_over_windows(operation, wide, windows, maximum, lowest), dtype_of(x))


@operator("AveragePool")
def plain_average_pool(operation: Operation, x: te.Tensor) -> te.Tensor:
    """AveragePool of other types than float32."""
    wide = widen(x)
    dtype = dtype_of(wide)
    windows, padded = pooling_windows(operation, shape_of(x)[2:])
    total = _over_windows(operation, wide, windows, te.sum, tirx.const(0, dtype))
    counts_padding = bool(operation.attribute("count_include_pad", 0))

    def element(*i: tirx.Expr) -> tirx.Expr:
        count: tirx.Expr = tirx.const(1, "int32")
        for window, extent, position in zip(windows, padded, i[2:], strict=True):
            count = count * (window.counted(position, extent) if counts_padding else window.taps(position)[1])
        return load(total, *i) / count.astype(dtype)

    return convert(te.compute(total.shape, element, name="average"), dtype_of(x))


def _over_windows(
    operation: Operation,
    x: te.Tensor,
    windows: Sequence[Window],
    reducer: Callable[..., tirx.Expr],
    outside: tirx.Expr,
) -> te.Tensor:
    """What a reducer makes of every window, `outside` standing for what is in the padding."""
    batch, channels, *spatial = shape_of(x)
    taps = [te.reduce_axis((0, window.kernel), name=f"tap{axis}") for axis, window in enumerate(windows)]

    def element(n: tirx.Expr, c: tirx.Expr, *positions: tirx.Expr) -> tirx.Expr:
        at = [
            p * window.stride - window.pad + tap.var * window.dilation
            for p, tap, window in zip(positions, taps, windows, strict=True)
        ]
        inside = tirx.all(*(tirx.all(i >= 0, i < size) for i, size in zip(at, spatial, strict=True)))
        return reducer(tirx.if_then_else(inside, load(x, n, c, *at), outside), axis=taps)

    return te.compute(output_shape(operation, batch, channels, windows), element, name="pooled")
