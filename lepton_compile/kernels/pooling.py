"""Depthwise convolution and pooling over blocked activations: every channel slides its own window.

The lanes of a vector are channels, so a window is a sum (or maximum) of vectors. A few output columns are computed
together, so that neighbouring windows share the inputs that they overlap in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import count_operations, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, shape_of
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    parallel,
    parameter,
    register,
    sequence,
    serial,
    store,
    vectorized,
)  # fmt: skip
from lepton_compile.kernels.register_tile import UNROLLED_EPILOGUE
from lepton_compile.kernels.window import Tiles, Window, tile_row

# Output columns computed together.
COLUMNS = 8


@dataclass(frozen=True)
class Sliding:
    """What happens to the inputs that a window sees.

    Attributes:
        family: "depthwise", "max pooling" or "average pooling".
        identity: The value of an empty window.
        combine: From the partial result, an input and a tap's weight (None unless depthwise) to the next partial
        result.
        finish: From the result and the number of inputs it stands for to the value given to the epilogue.
    """

    family: str
    identity: float
    combine: Callable[[tirx.Expr, tirx.Expr, tirx.Expr | None], tirx.Expr]
    finish: Callable[[tirx.Expr, tirx.Expr], tirx.Expr] = lambda value, count: value


def _maximum(total: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
    # NaN fails the comparison and is passed over: one instruction, and what onnxruntime does but for a window's last
    # input.
    return tirx.Select(value > total, value, total)


DEPTHWISE = Sliding("depthwise", 0.0, lambda total, value, weight: total + value * weight)
MAXIMUM = Sliding("max pooling", -math.inf, _maximum)
AVERAGE = Sliding(
    "average pooling", 0.0, lambda total, value, weight: total + value, lambda total, count: total / count
)


def sliding_window(
    sliding: Sliding,
    windows: Sequence[Window],
    source: Source,
    epilogue: Epilogue,
    machine: Machine,
    *,
    counts_padding: Sequence[int] | None = None,
) -> Definition:
    """A kernel that slides a window over every channel.

    Args:
        sliding: What happens in a window.
        windows: One per spatial axis.
        source: The input (batch, channels, spatial...), blocked by the machine's lanes.
        epilogue: What is stored, in the same layout.
        machine: The instruction set.
        counts_padding: For an average that counts padding: the extent of each axis of the padded input, with the
        padding in
            front. None counts inputs only.

    Returns:
        A kernel of the input, a depthwise convolution's weights (channel blocks, taps..., lanes), the epilogue's
        sources, and the output.
    """
    lanes = machine.lanes
    analyzer = sym.Analyzer()
    batch, channels, *_ = shape_of(source.tensor)
    channel_blocks = -(-channels // lanes)
    weighted = sliding is DEPTHWISE
    weights = te.placeholder((channel_blocks, *(w.kernel for w in windows), lanes), "float32", name="weights")
    sources = [source, Source(weights, PLAIN)] if weighted else [source]
    inputs = Operands(sources, analyzer)
    others = Operands(epilogue.sources, analyzer, first=len(sources))
    image = inputs.buffer(source.tensor)
    dtype = str(source.tensor.dtype)
    result = parameter("y", Layout(lanes).physical_shape(shape_of(epilogue.result)), str(epilogue.result.dtype))
    last = windows[-1]

    probe = [tirx.Var(f"p{axis}", "int32") for axis in range(len(shape_of(epilogue.result)))]
    cost = count_operations(epilogue.apply(tirx.Var("value", dtype), probe, others))

    def counted(axis: int, position: tirx.Expr | int, taps: tirx.Expr | int) -> tirx.Expr | int:
        """Inputs that an average divides by, along one axis."""
        return taps if counts_padding is None else windows[axis].counted(position, counts_padding[axis])

    def tile_at(
        n: tirx.Expr, block: tirx.Expr, outer: list[tirx.Expr], begin: tirx.Expr | int, tiles: Tiles
    ) -> tirx.Stmt:
        totals = [register(f"total{t}", lanes, dtype) for t in range(tiles.width)]
        spans = [window.taps(position) for window, position in zip(windows[:-1], outer, strict=True)]

        def add(t: int, taps: list[tirx.Expr | int]) -> tirx.Stmt:
            at = [
                position * w.stride - w.pad + tap * w.dilation
                for w, position, tap in zip(windows, [*outer, begin + t], taps, strict=True)
            ]

            def value(lane: tirx.Expr) -> tirx.Expr:
                weight = load(inputs.buffer(weights), [block, *taps, lane]) if weighted else None
                return sliding.combine(load(totals[t], [lane]), load(image, [n, block, *at, lane]), weight)

            return vector_store(lanes, value, lambda lane, v: store(totals[t], [lane], v))

        def along_last(outer_taps: list[tirx.Expr | int]) -> tirx.Stmt:
            if not tiles.border:
                return serial(
                    last.kernel,
                    lambda tap: sequence(add(t, [*outer_taps, tap]) for t in range(tiles.width)),
                    "kw",
                )
            assert isinstance(begin, int)
            return sequence(
                add(t, [*outer_taps, tap])
                for tap in range(last.kernel)
                for t in range(tiles.width)
                if last.inside(begin + t, tap)
            )

        def along(axis: int, taken: list[tirx.Expr | int]) -> tirx.Stmt:
            if axis == len(outer):
                return along_last(taken)
            first, count = spans[axis]
            return serial(count, lambda tap: along(axis + 1, [*taken, first + tap]), "kh")

        def inputs_seen(t: int | tirx.Expr) -> tirx.Expr:
            position = begin + t
            if tiles.border:
                assert isinstance(position, int)
                here: tirx.Expr | int = sum(last.inside(position, tap) for tap in range(last.kernel))
            else:
                here = last.kernel
            total = counted(len(outer), position, here)
            for axis, (_, count) in enumerate(spans):
                total = total * counted(axis, outer[axis], count)
            return tirx.Cast(dtype, total) if isinstance(total, tirx.Expr) else tirx.const(total, dtype)

        def finish(t: int) -> tirx.Stmt:
            at = [w.stored_at(p) for w, p in zip(windows, [*outer, begin + t], strict=True)]

            def value(lane: tirx.Expr) -> tirx.Expr:
                if isinstance(lane, tirx.Var):
                    analyzer.bind(lane, ir.Range(0, lanes), True)
                total = sliding.finish(load(totals[t], [lane]), inputs_seen(t))
                return epilogue.apply(total, [n, block * lanes + lane, *at], others)

            return vector_store(lanes, value, lambda lane, v: store(result, [n, block, *at, lane], v))

        clear = [
            vectorized(lanes, lambda lane, x=x: store(x, [lane], tirx.const(sliding.identity, dtype)))  # type: ignore[misc]
            for x in totals
        ]
        return allocate(totals, [*clear, along(0, []), *(finish(t) for t in range(tiles.width))])

    def row(n: tirx.Expr, block: tirx.Expr, outer: list[tirx.Expr]) -> tirx.Stmt:
        # A costly epilogue is code for every column of a tile: keep the tile narrow then.
        width = COLUMNS if cost <= UNROLLED_EPILOGUE else COLUMNS // 4
        parts = []
        for tiles in tile_row(last, min(width, last.positions)):
            if tiles.count == 1:
                parts.append(tile_at(n, block, outer, tiles.begin, tiles))
            else:
                parts.append(
                    serial(
                        tiles.count,
                        lambda w, t=tiles: tile_at(n, block, outer, w * t.width + t.begin, t),  # type: ignore[misc]
                        "wo",
                    )
                )
        return sequence(parts)

    extents = [batch, channel_blocks, *(window.positions for window in windows[:-1])]
    blocks = math.prod(extents)

    def block_body(index: tirx.Expr) -> tirx.Stmt:
        n, block, *outer = split_index(index, extents)
        return row(n, block, outer)

    taps = math.prod(window.kernel for window in windows)
    positions = math.prod(window.positions for window in windows)
    parameters = [*inputs.parameters, *others.parameters]
    return Definition(
        function=function([*parameters, result], parallel(blocks, block_body)),
        inputs=len(parameters),
        blocks=blocks,
        family=sliding.family,
        operations=batch * channels * positions * (2 * taps + cost),
    )
