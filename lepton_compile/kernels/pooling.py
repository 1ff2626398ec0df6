"""Depthwise convolution and pooling over blocked activations: every channel slides its own window.

The lanes of a vector are channels, so a window is a sum (or maximum) of vectors. A few output columns are computed
together, so that neighbouring windows share the inputs that they overlap in.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import evaluate, is_inlined, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, filled, shape_of
from lepton_compile.kernels.layout import PLAIN, Layout, dense_rows, dense_size
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    parallel,
    parameter,
    register,
    rolled,
    sequence,
    serial,
    store,
    vectorized,
)  # fmt: skip
from lepton_compile.kernels.register_tile import UNROLLED_EPILOGUE, LaneValue
from lepton_compile.kernels.window import Tiles, Window, over_row

Number = TypeVar("Number", bound=np.generic)

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
    image: te.Tensor,
    source: Source,
    epilogue: Epilogue,
    machine: Machine,
    *,
    counts_padding: Sequence[int] | None = None,
    weights_dtype: str = "float32",
) -> Definition:
    """A kernel that slides a window over every channel.

    Args:
        sliding: What happens in a window.
        windows: One per spatial axis.
        image: The input (batch, channels, spatial...).
        source: Where its elements are, blocked by the machine's lanes: the input itself, or a tensor from whose element
            at the same place each is computed.
        epilogue: What is stored, in the same layout.
        machine: The instruction set.
        counts_padding: For an average that counts padding: the extent of each axis of the padded input, with the
            padding in front. None counts inputs only.
        weights_dtype: The type of a depthwise convolution's weights in memory; integers are widened as they are read.

    Returns:
        A kernel of the input, a depthwise convolution's packed weights, the epilogue's sources, and the output.
    """
    return Emitter(
        sliding, tuple(windows), image, source, epilogue, machine, counts_padding, weights_dtype
    ).definition()


def depthwise_shape(channels: int, taps: Sequence[int], machine: Machine) -> tuple[int, ...]:
    """Shape of a depthwise convolution's packed weights; where they are to be small, dense, and read past their end."""
    blocks = -(-channels // machine.lanes)
    if machine.small:
        return (dense_size(math.prod(taps), channels, blocks * machine.lanes),)
    return (blocks, *taps, machine.lanes)


def pack_depthwise(weights: npt.NDArray[Number], machine: Machine) -> npt.NDArray[Number]:
    """Weights of shape (channels, 1, taps...) as (channel blocks, taps..., lanes); where small, as (taps, channels)."""
    channels, _, *taps = weights.shape
    lanes = machine.lanes
    blocks = -(-channels // lanes)
    if machine.small:
        return dense_rows(weights.reshape(channels, -1).T, blocks * lanes)
    padded = np.zeros((blocks * lanes, *taps), weights.dtype)
    padded[:channels] = weights[:, 0]
    return np.ascontiguousarray(np.moveaxis(padded.reshape(blocks, lanes, *taps), 1, -1))


class Emitter:
    """The loops of one sliding window, from a tap to the outermost block."""

    accumulates = ""
    """Type of what a window gives; empty for that of the input."""

    def __init__(
        self,
        sliding: Sliding,
        windows: tuple[Window, ...],
        image: te.Tensor,
        source: Source,
        epilogue: Epilogue,
        machine: Machine,
        counts_padding: Sequence[int] | None,
        weights_dtype: str = "float32",
    ) -> None:
        self.weights_dtype = weights_dtype
        self.sliding, self.windows, self.epilogue, self.counts_padding = sliding, windows, epilogue, counts_padding
        self.machine, self.lanes = machine, machine.lanes
        self.image, self.source = image, source.tensor
        self.shape = shape_of(image)
        self.channel_blocks = -(-self.shape[1] // self.lanes)
        self.dtype = self.accumulates or str(image.dtype)
        self.analyzer = sym.Analyzer()
        weights = self.packed()
        sources = [source] if weights is None else [source, Source(weights, PLAIN)]
        self.inputs = Operands(sources, self.analyzer)
        self.others = Operands(epilogue.sources, self.analyzer, first=len(sources))
        self.weights = None if weights is None else self.inputs.buffer(weights)
        stored = shape_of(epilogue.result)
        self.result = parameter("y", Layout(self.lanes).physical_shape(stored), str(epilogue.result.dtype))
        self.cost = epilogue.cost(self.others)
        # Where code is to be small, all tiles of a row share one epilogue, over what they stored.
        alike = str(epilogue.result.dtype) == self.dtype
        self.shared_epilogue = machine.small and alike and self.cost > 0 and self.windows[-1].positions > 1

    @property
    def family(self) -> str:
        """Name of the kernel family."""
        return self.sliding.family

    def packed(self) -> te.Tensor | None:
        """The packed weights, if there are any."""
        if self.sliding is not DEPTHWISE:
            return None
        taps = [window.kernel for window in self.windows]
        shape = depthwise_shape(self.shape[1], taps, self.machine)
        return te.placeholder(shape, self.weights_dtype, name="weights")

    def identity(self) -> tirx.Expr:
        """The value of an empty window; of integers, the least there is for minus infinity."""
        if math.isinf(self.sliding.identity) and not self.dtype.startswith("float"):
            return tirx.min_value(self.dtype)
        return tirx.const(self.sliding.identity, self.dtype)

    def definition(self) -> Definition:
        """The kernel: a block for each image, block of channels and row of windows."""
        batch, channels, *_ = self.shape
        extents = [batch, self.channel_blocks, *(window.positions for window in self.windows[:-1])]
        blocks = math.prod(extents)

        def block(index: tirx.Expr) -> tirx.Stmt:
            n, channel_block, *outer = split_index(index, extents)
            return self.row(Place(n, channel_block, tuple(outer)))

        each = 2 * math.prod(window.kernel for window in self.windows) + self.cost
        parameters = [*self.inputs.parameters, *self.others.parameters]
        return Definition(
            function=function([*parameters, self.result], parallel(blocks, block)),
            inputs=len(parameters),
            blocks=blocks,
            family=self.family,
            operations=batch * channels * math.prod(window.positions for window in self.windows) * each,
            filled=filled(channels, self.machine),
        )

    def row(self, place: Place) -> tirx.Stmt:
        """A row of windows, a few together."""
        # A costly epilogue is code for every column of a tile: keep the tile narrow then.
        width = COLUMNS if self.cost <= UNROLLED_EPILOGUE and not self.machine.small else COLUMNS // 4
        positions = self.windows[-1].positions
        tiles = self.tiles(min(width, positions), functools.partial(self.tile, place))
        if not self.shared_epilogue:
            return tiles
        again = rolled(positions, lambda p: self.store(place, p, functools.partial(self.kept, place, p)))
        return sequence([tiles, again])

    def tiles(self, width: int, tile: Callable[[tirx.Expr | int, Tiles], tirx.Stmt]) -> tirx.Stmt:
        """The statements of a row, from the function that gives those of a tile."""
        return over_row(self.windows[-1], width, tile, small=self.machine.small)

    def tile(self, place: Place, begin: tirx.Expr | int, tiles: Tiles) -> tirx.Stmt:
        """Neighbouring windows, the first at `begin` on the innermost axis."""
        totals = [register(f"total{t}", self.lanes, self.dtype) for t in range(tiles.width)]
        return allocate(
            totals,
            [
                *(self.clear(total) for total in totals),
                self.outer_taps(place, begin, tiles, totals, []),
                *(self.finish(place, begin, tiles, t, total) for t, total in enumerate(totals)),
            ],
        )

    def clear(self, total: tirx.Buffer) -> tirx.Stmt:
        """Start a window."""
        empty = self.identity()
        return vectorized(self.lanes, lambda lane: store(total, [lane], empty))

    def outer_taps(
        self,
        place: Place,
        begin: tirx.Expr | int,
        tiles: Tiles,
        totals: Sequence[tirx.Buffer],
        taps: list[tirx.Expr | int],
    ) -> tirx.Stmt:
        """Loops over the window's axes; those but the last skip the taps that lie outside."""
        axis = len(taps)
        if axis < len(place.outer):
            first, count = self.windows[axis].taps(place.outer[axis])
            loop = rolled if self.machine.small else serial
            return loop(count, lambda tap: self.outer_taps(place, begin, tiles, totals, [*taps, first + tap]), "tap")
        return self.row_of_taps(place, begin, tiles, totals, taps)

    def row_of_taps(
        self,
        place: Place,
        begin: tirx.Expr | int,
        tiles: Tiles,
        totals: Sequence[tirx.Buffer],
        taps: list[tirx.Expr | int],
    ) -> tirx.Stmt:
        """All taps along the last axis, at one place on the others."""
        last = self.windows[-1]
        if not tiles.border:
            return (rolled if self.machine.small else serial)(
                last.kernel,
                lambda tap: sequence(self.add(place, begin + t, total, [*taps, tap]) for t, total in enumerate(totals)),
                "tap",
            )
        if not isinstance(begin, int):
            first, count = last.taps(begin)
            return rolled(count, lambda tap: self.add(place, begin, totals[0], [*taps, first + tap]), "tap")
        return sequence(
            self.add(place, begin + t, total, [*taps, tap])
            for tap in range(last.kernel)
            for t, total in enumerate(totals)
            if last.inside(begin + t, tap)
        )

    def add(
        self, place: Place, position: tirx.Expr | int, total: tirx.Buffer, taps: Sequence[tirx.Expr | int]
    ) -> tirx.Stmt:
        """Add the input that one tap of a window sees."""
        at = [
            window.first(p) + tap * window.dilation
            for window, p, tap in zip(self.windows, [*place.outer, position], taps, strict=True)
        ]

        def value(lane: tirx.Expr) -> tirx.Expr:
            weight = None
            if self.weights is not None:
                weight = load(self.weights, self.weight_at(place, taps, lane)).astype("float32")
            return self.sliding.combine(load(total, [lane]), self.seen(place, at, lane), weight)

        return vector_store(self.lanes, value, lambda lane, v: store(total, [lane], v))

    def weight_at(self, place: Place, taps: Sequence[tirx.Expr | int], lane: tirx.Expr) -> list[tirx.Expr | int]:
        """Where a depthwise convolution's weight lies."""
        if not self.machine.small:
            return [place.block, *taps, lane]
        row: tirx.Expr | int = 0
        for window, tap in zip(self.windows, taps, strict=True):
            row = row * window.kernel + tap
        return [row * self.shape[1] + place.block * self.lanes + lane]

    def seen(self, place: Place, at: Sequence[tirx.Expr | int], lane: tirx.Expr) -> tirx.Expr:
        """An input, from the element of the source at the same place."""
        stored = load(self.inputs.buffer(self.source), [place.image, place.block, *at, lane])
        where = [place.image, place.block * self.lanes + lane, *at]
        return evaluate(self.image, where, lambda *_: stored, lambda t: t.op != self.source.op and is_inlined(t))

    def finish(self, place: Place, begin: tirx.Expr | int, tiles: Tiles, t: int, total: tirx.Buffer) -> tirx.Stmt:
        """Store a window's result through the epilogue, unless that comes later."""
        count = self.count(place, begin + t, tiles)
        return self.store(
            place,
            begin + t,
            lambda lane: self.sliding.finish(load(total, [lane]), count),
            through=not self.shared_epilogue,
        )

    def kept(self, place: Place, position: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
        """A lane of a window's result that was stored as it was."""
        return load(self.result, [place.image, place.block, *self.stored_at(place, position), lane])

    def stored_at(self, place: Place, position: tirx.Expr | int) -> list[tirx.Expr | int]:
        """The output's pixel."""
        return [w.stored_at(p) for w, p in zip(self.windows, [*place.outer, position], strict=True)]

    def store(self, place: Place, position: tirx.Expr | int, of: LaneValue, *, through: bool = True) -> tirx.Stmt:
        """Store a window's result, through the epilogue or as it is."""
        at = self.stored_at(place, position)

        def value(lane: tirx.Expr) -> tirx.Expr:
            if isinstance(lane, tirx.Var):
                self.analyzer.bind(lane, ir.Range(0, self.lanes), True)
            if not through:
                return of(lane)
            return self.epilogue.apply(of(lane), [place.image, place.block * self.lanes + lane, *at], self.others)

        return vector_store(
            self.lanes, value, lambda lane, v: store(self.result, [place.image, place.block, *at, lane], v)
        )

    def count(self, place: Place, position: tirx.Expr | int, tiles: Tiles) -> tirx.Expr:
        """How many inputs an average divides by."""
        last = self.windows[-1]
        seen: tirx.Expr | int = last.kernel
        if tiles.border:
            seen = last.seen(position) if isinstance(position, int) else last.taps(position)[1]
        counts = [window.taps(p)[1] for window, p in zip(self.windows[:-1], place.outer, strict=True)]
        counts.append(seen)
        if self.counts_padding is not None:
            every = zip(self.windows, [*place.outer, position], self.counts_padding, strict=True)
            counts = [window.counted(p, extent) for window, p, extent in every]
        total = functools.reduce(operator.mul, counts)
        return tirx.Cast(self.dtype, total) if isinstance(total, tirx.Expr) else tirx.const(total, self.dtype)


@dataclass(frozen=True)
class Place:
    """What the outer loops have settled: image, block of channels, and all but the innermost position."""

    image: tirx.Expr
    block: tirx.Expr
    outer: tuple[tirx.Expr, ...]
