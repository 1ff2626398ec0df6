"""Direct convolution in a register tile, over blocked activations; `convolution_plan` says how it is cut.

Any number of spatial axes is one loop more or less outside the innermost. In a block with channels of several groups
each lane multiplies the input of its own group by the weight of its own, so that an infinity or NaN stays in its group,
and every store is of a whole vector, or of the part of one that an output position has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import ir, sym, te, tirx

from lepton_compile.kernels.channel_groups import Segment
from lepton_compile.kernels.convolution_plan import (
    Convolution,
    channel_groups,
    dense_shape,
    filled_lanes,
    packed_shape,
)
from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.loops import (
    APART,
    apart,
    function,
    load,
    parallel,
    parameter,
    rolled,
    sequence,
    serial,
    store,
    when,
)  # fmt: skip
from lepton_compile.kernels.register_tile import UNROLLED_EPILOGUE, LaneValue, RegisterTile, StoredTile, TileShape
from lepton_compile.kernels.window import Tiles, over_row


def convolution(
    shapes: Convolution,
    source: Source,
    epilogue: Epilogue,
    machine: Machine,
    order: Source | None = None,
    weights_dtype: str = "float32",
) -> Definition:
    """A direct convolution.

    Args:
        shapes: Its shapes.
        source: The input, of shape (batch, inputs * groups, spatial...), in any layout.
        epilogue: What is stored; its layout is blocked by the machine's lanes.
        machine: The instruction set.
        order: Which of the source's channels each input channel is, int32; None if they are the same.
        weights_dtype: The type of the weights in memory; integers are widened as they are read.

    Returns:
        A kernel of the input, the packed weights, the order if there is one, the epilogue's sources and the output.
    """
    return Emitter(shapes, source, epilogue, machine, order, weights_dtype).definition()


# From an output pixel, the first of a vector's lanes that are its own, and the place behind that to a lane's value.
PixelValue = Callable[[Sequence[tirx.Expr], int, tirx.Expr], tirx.Expr]


class Emitter:
    """The loops of one convolution, from the innermost step to the outermost block."""

    family = "convolution"
    definitions = ""

    def __init__(
        self,
        shapes: Convolution,
        source: Source,
        epilogue: Epilogue,
        machine: Machine,
        order: Source | None,
        weights_dtype: str,
    ) -> None:
        self.shapes, self.source, self.epilogue, self.machine, self.order = shapes, source, epilogue, machine, order
        self.analyzer = sym.Analyzer()
        packed = self.packed_shape()
        stored = dense_shape(shapes, machine) if shapes.dense else packed
        weights = te.placeholder(stored, weights_dtype, name="weights")
        self.inputs = Operands([source, Source(weights, PLAIN), *([order] if order else [])], self.analyzer)
        self.others = Operands(epilogue.sources, self.analyzer, first=len(self.inputs.parameters))
        self.weights = self.inputs.buffer(weights)
        _, self.tiles, self.input_blocks, *self.kernel, self.input_steps, _, _ = packed
        # Where a tap is one step of the reduction, taps at a border lie next to each other, in no loop of their own.
        self.taps_apart = self.input_steps == 1 and not machine.small
        if self.taps_apart:
            self.definitions += APART
        shape = shape_of(epilogue.result)
        self.result = parameter("y", epilogue.layout.physical_shape(shape), str(epilogue.result.dtype))
        self.cost = epilogue.cost(self.others)
        # Where code is to be small, all tiles of a row share one epilogue, over what they stored.
        alike = str(epilogue.result.dtype) == self.registers(1).dtype
        self.shared_epilogue = machine.small and alike and self.cost > 0 and shapes.pixels > 1

    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights."""
        return packed_shape(self.shapes, self.machine)

    def registers(self, width: int) -> RegisterTile:
        """The accumulators of a tile of so many columns."""
        return RegisterTile(TileShape(width, self.shapes.tile.blocks), self.machine)

    def definition(self) -> Definition:
        """The kernel: tiles of blocks of output channels, and rows of tiles of pixels."""
        shapes = self.shapes
        positions = [window.positions for window in shapes.windows]
        rows = [-(-shapes.pixels // shapes.tile.columns)] if shapes.flat else positions[:-1]
        # The outer loop reads its operand once, and the other operand once per step: put the larger one outside.
        weight_size = math.prod(self.packed_shape()[1:])
        input_size = shapes.inputs * math.prod(window.input for window in shapes.windows)
        rows_outside = weight_size * math.prod(rows) < input_size * self.tiles
        loops = [*rows, self.tiles] if rows_outside else [self.tiles, *rows]
        extents = [shapes.batch, shapes.sets, *loops]
        blocks = math.prod(extents)

        def block(index: tirx.Expr) -> tirx.Stmt:
            n, of, *rest = split_index(index, extents)
            tile, at = (rest[-1], rest[:-1]) if rows_outside else (rest[0], rest[1:])

            def computed(segments: Sequence[Segment]) -> tirx.Stmt:
                place = Place(n, of, tile, segments, () if shapes.flat else tuple(at))
                return self.flat_tile(place, at[0]) if shapes.flat else self.row(place)

            groups = channel_groups(shapes, self.machine)
            return groups.by_kind(tile, computed) if groups else computed([Segment(of, 0)])

        each = 2 * shapes.inputs * math.prod(window.kernel for window in shapes.windows) + self.cost
        parameters = [*self.inputs.parameters, *self.others.parameters]
        return Definition(
            function=function([*parameters, self.result], parallel(blocks, block), self.definitions),
            inputs=len(parameters),
            blocks=blocks,
            family=self.family,
            operations=shapes.batch * shapes.groups * shapes.outputs * shapes.pixels * each,
            filled=filled_lanes(shapes, self.machine),
        )

    def row(self, place: Place) -> tirx.Stmt:
        """A row of output pixels, tile by tile."""
        window = self.shapes.walked[-1]
        tiles = over_row(
            window, self.shapes.tile.columns, functools.partial(self.tile, place), small=self.machine.small
        )
        return sequence([tiles, self.again(place, 0, window.positions)]) if self.shared_epilogue else tiles

    def again(self, place: Place, begin: tirx.Expr | int, count: tirx.Expr | int) -> tirx.Stmt:
        """Put pixels that were stored as they were through the epilogue."""

        def finished(t: tirx.Expr) -> tirx.Stmt:
            return sequence(self.finish_stored(place, b, begin + t) for b in range(self.shapes.tile.blocks))

        return (rolled if self.shared_epilogue else serial)(count, finished, "t")

    def flat_tile(self, place: Place, index: tirx.Expr) -> tirx.Stmt:
        """A tile of pixels of a 1x1 convolution, the last one narrower."""
        width = self.shapes.tile.columns
        full, tail = divmod(self.shapes.pixels, width)
        whole, rest = (Tiles(0, columns, 1, False) for columns in (width, tail))
        if not tail:
            tile, columns = self.tile(place, index * width, whole), tirx.const(width, "int32")
        else:
            tile, columns = self.tile(place, full * width, rest), tirx.const(tail, "int32")
            if full:
                tile = when(index < full, self.tile(place, index * width, whole), tile)
                columns = tirx.Select(index < full, width, tail)
        return sequence([tile, self.again(place, index * width, columns)]) if self.shared_epilogue else tile

    def tile(self, place: Place, begin: tirx.Expr | int, tiles: Tiles) -> tirx.Stmt:
        """One tile, its first pixel at `begin` on the innermost axis."""
        registers = self.registers(tiles.width)
        reduce = serial(self.input_blocks, lambda ib: self.outer_taps(place, begin, tiles, registers, ib, []), "ib")
        if self.cost <= UNROLLED_EPILOGUE and not self.shared_epilogue:
            return registers.run([reduce], lambda b, t, raw: self.finish(place, b, begin + t, raw))
        if str(self.epilogue.result.dtype) != registers.dtype:
            return self.tile_by_way(place, begin, registers, reduce)

        def raw_store(b: int, t: int, raw: LaneValue) -> tirx.Stmt:
            return self.store_lanes(place, b, begin + t, lambda pixel, first, lane: raw(first + lane))

        stored = registers.run([reduce], raw_store)
        return stored if self.shared_epilogue else sequence([stored, self.again(place, begin, tiles.width)])

    def tile_by_way(
        self, place: Place, begin: tirx.Expr | int, registers: RegisterTile, reduce: tirx.Stmt
    ) -> tirx.Stmt:
        """One tile whose sums are of another type than the result, and wait for the epilogue elsewhere."""

        def again(sums: StoredTile, t: tirx.Expr) -> tirx.Stmt:
            return sequence(self.finish(place, b, begin + t, sums(t, b)) for b in range(self.shapes.tile.blocks))

        return registers.run_stored([reduce], again)

    def outer_taps(
        self,
        place: Place,
        begin: tirx.Expr | int,
        tiles: Tiles,
        registers: RegisterTile,
        ib: tirx.Expr,
        taps: list[tirx.Expr | int],
    ) -> tirx.Stmt:
        """Loops over the kernel's axes; those but the last skip the taps that lie outside."""
        axis = len(taps)
        if axis < len(self.kernel) - 1:
            first, count = (0, 1) if self.shapes.flat else self.shapes.windows[axis].taps(place.outer[axis])
            return (rolled if self.machine.small else serial)(
                count,
                lambda tap: self.outer_taps(place, begin, tiles, registers, ib, [*taps, first + tap]),
                "tap",
            )
        window = self.shapes.walked[-1]
        everywhere = range(tiles.width)
        if not tiles.border:
            # Where a tap is one step of the reduction, this loop is the innermost one.
            loop = rolled if self.input_steps == 1 else serial
            return loop(
                window.kernel, lambda tap: self.lanes(place, begin, everywhere, registers, ib, [*taps, tap]), "tap"
            )
        if not isinstance(begin, int):
            first, count = window.taps(begin)
            return rolled(count, lambda tap: self.lanes(place, begin, [0], registers, ib, [*taps, first + tap]), "tap")
        # At a border the columns that see an input differ from tap to tap.
        columns = [[t for t in everywhere if window.inside(begin + t, tap)] for tap in range(window.kernel)]
        seen = [(tap, seeing) for tap, seeing in enumerate(columns) if seeing]

        def step(tap: int, seeing: Sequence[int], zero: tirx.Expr | int = 0) -> tirx.Stmt:
            return self.lanes(place, begin, seeing, registers, ib, [*taps, tap + zero])

        if self.taps_apart:
            return sequence(apart(functools.partial(step, *each)) for each in seen)
        return sequence(step(*each) for each in seen)

    def lanes(
        self,
        place: Place,
        begin: tirx.Expr | int,
        columns: Sequence[int],
        registers: RegisterTile,
        ib: tirx.Expr,
        taps: Sequence[tirx.Expr | int],
    ) -> tirx.Stmt:
        """The innermost loop: the channels of one input block, for one tap."""
        shapes, lanes = self.shapes, self.machine.lanes
        extent: int | tirx.Expr = self.input_steps
        if shapes.inputs % lanes and self.input_blocks > 1:
            extent = tirx.min(lanes, shapes.inputs - ib * lanes)

        def step(ii: tirx.Expr) -> tirx.Stmt:
            if isinstance(ii, tirx.Var):
                self.analyzer.bind(ii, ir.Range(0, self.input_steps), True)

            def value(t: int, lane: tirx.Expr) -> tirx.Expr:
                pixel = self.seen(place, begin + t, taps)

                def of(segment: Segment) -> tirx.Expr:
                    channel = self.stored_channel(segment.group * shapes.inputs + ib * lanes + ii)
                    return self.inputs.load(self.source.tensor, [place.image, channel, *pixel])

                head, *rest = place.segments
                chosen = of(head)
                for segment in rest:
                    chosen = tirx.Select(lane < segment.begin, chosen, of(segment))
                return chosen

            def weight(b: int, lane: tirx.Expr) -> tirx.Expr:
                return load(self.weights, self.weight_at(place, ib, taps, ii, b, lane)).astype(registers.dtype)

            return registers.step(columns, value, weight)

        return rolled(extent, step, "ii")

    def weight_at(
        self,
        place: Place,
        ib: tirx.Expr,
        taps: Sequence[tirx.Expr | int],
        ii: tirx.Expr,
        b: int,
        lane: tirx.Expr,
    ) -> list[tirx.Expr | int]:
        """Where a weight lies."""
        if not self.shapes.dense:
            return [place.set, place.tile, ib, *taps, ii, b, lane]
        row = place.set * self.shapes.inputs + ib * self.machine.lanes + ii
        for extent, tap in zip(self.kernel, taps, strict=True):
            row = row * extent + tap
        first = (place.tile * self.shapes.tile.blocks + b) * self.machine.lanes
        return [row * self.shapes.set_outputs + first + lane]

    def stored_channel(self, channel: tirx.Expr) -> tirx.Expr:
        """The source's channel that an input channel is."""
        return channel if self.order is None else self.inputs.load(self.order.tensor, [channel])

    def seen(self, place: Place, position: tirx.Expr | int, taps: Sequence[tirx.Expr | int]) -> list[tirx.Expr]:
        """The input pixel that a tap of an output pixel sees."""
        if self.shapes.flat:
            return self.pixel(place, position)
        return self.shapes.spatial(
            [
                window.first(p) + tap * window.dilation
                for window, p, tap in zip(self.shapes.walked, [*place.outer, position], taps, strict=True)
            ]
        )

    def pixel(self, place: Place, position: tirx.Expr | int) -> list[tirx.Expr]:
        """Indices of an output pixel from its position on the innermost axis, or among all pixels."""
        windows = self.shapes.windows
        if self.shapes.flat:
            return self.shapes.spatial(split_index(position, [window.positions for window in windows]))
        return self.shapes.spatial([w.stored_at(p) for w, p in zip(windows, [*place.outer, position], strict=True)])

    def channel(self, place: Place, b: int, lane: tirx.Expr) -> tirx.Expr:
        """The output channel of a lane of the tile's block `b`."""
        if isinstance(lane, tirx.Var):
            self.analyzer.bind(lane, ir.Range(0, self.machine.lanes), True)
        first = (place.tile * self.shapes.tile.blocks + b) * self.machine.lanes
        return place.set * self.shapes.set_outputs + first + lane

    def address(self, place: Place, b: int, pixel: Sequence[tirx.Expr], lane: tirx.Expr) -> list[tirx.Expr]:
        """Where an output element lies."""
        channel = self.channel(place, b, lane)
        return physical(self.epilogue.layout, [place.image, channel, *pixel], self.analyzer)

    def finish(self, place: Place, b: int, column: tirx.Expr | int, raw: LaneValue) -> tirx.Stmt:
        """Store a block of a column's pixels through the epilogue."""
        return self.store_lanes(place, b, column, self.finished(place, b, lambda pixel, first, lane: raw(first + lane)))

    def finish_stored(self, place: Place, b: int, column: tirx.Expr | int) -> tirx.Stmt:
        """Put a block of a column's pixels that was stored as it was through the epilogue."""

        def raw(pixel: Sequence[tirx.Expr], first: int, lane: tirx.Expr) -> tirx.Expr:
            return load(self.result, self.address(place, b, pixel, lane))

        return self.store_lanes(place, b, column, self.finished(place, b, raw))

    def finished(self, place: Place, b: int, raw: PixelValue) -> PixelValue:
        """What the epilogue makes of a block of pixels."""

        def value(pixel: Sequence[tirx.Expr], first: int, lane: tirx.Expr) -> tirx.Expr:
            at = [place.image, self.channel(place, b, lane), *pixel]
            return self.epilogue.apply(raw(pixel, first, lane), at, self.others)

        return value

    def store_lanes(self, place: Place, b: int, column: tirx.Expr | int, value: PixelValue) -> tirx.Stmt:
        """Store a block of a column's pixels, unless it lies past the last block, or they past the last pixel."""
        abreast, positions = self.shapes.abreast, self.shapes.windows[-1].positions
        lanes = self.machine.lanes // abreast

        def stored(neighbour: int) -> tirx.Stmt:
            position = column * abreast + neighbour
            pixel = self.pixel(place, position)
            block = vector_store(
                lanes,
                lambda lane: value(pixel, neighbour * lanes, lane),
                lambda lane, v: store(self.result, self.address(place, b, pixel, lane), v),
            )
            return when(position < positions, block) if positions % abreast else block

        whole = sequence(map(stored, range(abreast)))
        tile_blocks = self.shapes.tile.blocks
        output_blocks = -(-self.shapes.set_outputs // self.machine.lanes)
        present = output_blocks % tile_blocks
        return whole if not present or b < present else when(place.tile * tile_blocks + b < output_blocks, whole)


@dataclass(frozen=True)
class Place:
    """What the outer loops have settled.

    Attributes:
        image: The image.
        set: The set.
        tile: Its tile of output blocks.
        segments: The groups that each block of the tile has channels of; several only if it is one block.
        outer: All but the innermost position.
    """

    image: tirx.Expr
    set: tirx.Expr
    tile: tirx.Expr
    segments: Sequence[Segment]
    outer: tuple[tirx.Expr, ...]
