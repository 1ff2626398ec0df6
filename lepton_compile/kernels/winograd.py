"""Convolution by minimal filtering: the kernels.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308. The output is cut into tiles. Of
each, the inputs that it sees are transformed (V), once per input channel; at each of the transform's points, the tiles
and the channels form a matrix product with the transformed weights (U); what comes out (M) is transformed back, once
per output channel:

    V = B^T d B        M_p = U_p V_p        y = A^T M A

per spatial axis, whatever their number. An axis without taps is left as it is. A vector of the transforms is a block of
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import count_operations, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    local,
    nest,
    parallel,
    parameter,
    sequence,
    serial,
    store,
    vectorized,
    when,
)  # fmt: skip
from lepton_compile.kernels.register_tile import LaneValue, RegisterTile
from lepton_compile.kernels.toom_cook import Vectors
from lepton_compile.kernels.winograd_plan import Winograd, packed_shape, product_rows, transformed_shape


def input_transform(shapes: Winograd, source: Source, machine: Machine) -> Definition:
    """The first stage of a staged convolution.

    Args:
        shapes: Its shapes.
        source: The input, of shape (batch, inputs * groups, spatial...), blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the input and the transformed input.
    """
    operands = Operands([source], sym.Analyzer())
    analysis = _Analysis(shapes, operands.buffer(source.tensor), machine)
    transformed = parameter("v", transformed_shape(shapes, machine), "float32")
    extents = [shapes.input_blocks(machine.lanes), shapes.tiles]

    def block(index: tirx.Expr) -> tirx.Stmt:
        channels, tile = split_index(index, extents)
        chunk = tirx.floordiv(tile, shapes.chunk)
        return analysis.tile(tile, channels, tile - chunk * shapes.chunk, transformed, [chunk])

    return Definition(
        function=function([*operands.parameters, transformed], parallel(math.prod(extents), block)),
        inputs=1,
        blocks=math.prod(extents),
        family="winograd input",
        operations=0,
    )


def convolution(shapes: Winograd, source: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A convolution, or, of a staged one, all that comes after the input's transform.

    Args:
        shapes: Its shapes.
        source: The input, of shape (batch, inputs * groups, spatial...), blocked by the machine's lanes; of a staged
            convolution, what `input_transform` made, in plain layout.
        epilogue: What is stored; its layout is blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the source, the packed weights, the epilogue's sources and the output. Of its operations, those of
        the transforms are not counted.
    """
    return _Emitter(shapes, source, epilogue, machine).definition()


class _Analysis:
    """The transform of the input: V = B^T d B."""

    def __init__(self, shapes: Winograd, image: tirx.Buffer, machine: Machine) -> None:
        self.shapes, self.image, self.lanes = shapes, image, machine.lanes
        self.extents = [transform.points for transform in shapes.filters]

    def tile(
        self, tile: tirx.Expr, channels: tirx.Expr, place: tirx.Expr, result: tirx.Buffer, leading: Sequence[tirx.Expr]
    ) -> tirx.Stmt:
        """Transform what a tile sees of a block of channels, and store it as the tile `place` of its chunk."""
        shapes = self.shapes
        image, *position = split_index(tile, [shapes.batch, *shapes.tiles_per_axis])
        first = [
            p * transform.outputs - window.pad
            for p, transform, window in zip(position, shapes.filters, shapes.windows, strict=True)
        ]
        seen = local("seen", [*self.extents, self.lanes])

        def from_image(at: Sequence[int], lane: tirx.Expr) -> tirx.Expr:
            return load(self.image, [image, channels, *(f + i for f, i in zip(first, at, strict=True)), lane])

        def transformed(read: Callable[[Sequence[int], tirx.Expr], tirx.Expr]) -> tirx.Stmt:
            vectors = Vectors(self.lanes)
            values = vectors.analyse_all(shapes.filters, read)
            row = channels * shapes.chunk + place
            for point, value in enumerate(values):
                vectors.write(lambda lane, p=point, v=value: store(result, [*leading, p, row, lane], v(lane)))  # type: ignore[misc]
            return vectors.code()

        if not any(self.overhangs(axis) for axis in range(len(first))):
            return transformed(from_image)
        bounds = zip(first, self.extents, shapes.windows, strict=True)
        inside = tirx.all(*(tirx.all(f >= 0, f + extent <= window.input) for f, extent, window in bounds))
        gathered = self.gather(seen, image, channels, first)
        border = allocate([seen], [gathered, transformed(lambda at, lane: load(seen, [*at, lane]))])
        return when(inside, transformed(from_image), border)

    def overhangs(self, axis: int) -> bool:
        """Whether some tile sees inputs in front of the first one, or behind the last, along an axis."""
        window, transform = self.shapes.windows[axis], self.shapes.filters[axis]
        last = (self.shapes.tiles_per_axis[axis] - 1) * transform.outputs - window.pad
        return window.pad > 0 or last + transform.points > window.input

    def gather(self, seen: tirx.Buffer, image: tirx.Expr, channels: tirx.Expr, first: Sequence[tirx.Expr]) -> tirx.Stmt:
        """Copy what a tile at a border sees, with zeros around it."""
        windows = self.shapes.windows
        lows = [tirx.max(0, -f) for f in first]
        counts = [
            tirx.max(0, tirx.min(extent, window.input - f) - low)
            for extent, window, f, low in zip(self.extents, windows, first, lows, strict=True)
        ]

        def clear(at: list[tirx.Expr]) -> tirx.Stmt:
            return vectorized(self.lanes, lambda lane: store(seen, [*at, lane], tirx.const(0, "float32")))

        def copy(index: list[tirx.Expr]) -> tirx.Stmt:
            at = [low + i for low, i in zip(lows, index, strict=True)]
            source = [image, channels, *(f + i for f, i in zip(first, at, strict=True))]
            return vectorized(self.lanes, lambda lane: store(seen, [*at, lane], load(self.image, [*source, lane])))

        return sequence([nest(self.extents, clear), nest(counts, copy)])


class _Emitter:
    """The products and the transform of the output; of a fused convolution, the transform of the input before them."""

    def __init__(self, shapes: Winograd, source: Source, epilogue: Epilogue, machine: Machine) -> None:
        self.shapes, self.epilogue, self.machine = shapes, epilogue, machine
        self.analyzer = sym.Analyzer()
        packed = te.placeholder(packed_shape(shapes, machine), "float32", name="weights")
        self.inputs = Operands([source, Source(packed, PLAIN)], self.analyzer)
        self.others = Operands(epilogue.sources, self.analyzer, first=2)
        self.source, self.weights = self.inputs.parameters
        self.input_blocks = -(-shapes.inputs // machine.lanes)
        self.output_tiles = packed_shape(shapes, machine)[1]
        shape = shape_of(epilogue.result)
        self.result = parameter("y", epilogue.layout.physical_shape(shape), str(epilogue.result.dtype))
        self.products = local("products", [shapes.points, product_rows(shapes), machine.lanes])
        probe = [tirx.Var(f"p{axis}", "int32") for axis in range(len(shape))]
        self.cost = count_operations(epilogue.apply(tirx.Var("value", "float32"), probe, self.others))

    def definition(self) -> Definition:
        """The kernel: chunks of tiles, and, of a staged convolution, tiles of output channels."""
        shapes = self.shapes
        output_tiles = [shapes.groups, self.output_tiles]
        extents = [*output_tiles, shapes.chunks] if shapes.staged else [shapes.chunks]

        def block(index: tirx.Expr) -> tirx.Stmt:
            if not shapes.staged:
                return self.chunk(index)
            group, tile, chunk = split_index(index, extents)
            return self.output_tile(_Place(group, tile, chunk), self.source, [chunk])

        parameters = [*self.inputs.parameters, *self.others.parameters]
        positions = shapes.batch * math.prod(window.positions for window in shapes.windows)
        each = 2 * shapes.points * shapes.tiles * shapes.inputs + positions * self.cost
        return Definition(
            function=function([*parameters, self.result], parallel(math.prod(extents), block)),
            inputs=len(parameters),
            blocks=math.prod(extents),
            family="winograd",
            operations=shapes.groups * shapes.outputs * each,
        )

    def chunk(self, chunk: tirx.Expr) -> tirx.Stmt:
        """All stages of a chunk of tiles."""
        shapes = self.shapes
        blocks = shapes.input_blocks(self.machine.lanes)
        transformed = local("transformed", transformed_shape(shapes, self.machine)[1:])
        analysis = _Analysis(shapes, self.source, self.machine)

        def tile(at: list[tirx.Expr]) -> tirx.Stmt:
            channels, place = at
            return analysis.tile(chunk * shapes.chunk + place, channels, place, transformed, [])

        def outputs(at: list[tirx.Expr]) -> tirx.Stmt:
            group, tile = at
            return self.output_tile(_Place(group, tile, chunk), transformed, [])

        stages = [nest([blocks, self.count(chunk)], tile), nest([shapes.groups, self.output_tiles], outputs)]
        return allocate([transformed], stages)

    def count(self, chunk: tirx.Expr) -> tirx.Expr | int:
        """Tiles in a chunk."""
        shapes = self.shapes
        if shapes.tiles % shapes.chunk == 0:
            return shapes.chunk
        return tirx.min(shapes.chunk, shapes.tiles - chunk * shapes.chunk)

    def output_tile(self, place: _Place, transformed: tirx.Buffer, leading: Sequence[tirx.Expr]) -> tirx.Stmt:
        """The products of a chunk of tiles with a tile of output channels, and what becomes of them."""
        shapes, columns = self.shapes, self.shapes.tile.columns
        count = self.count(place.chunk)

        def multiply(at: list[tirx.Expr]) -> tirx.Stmt:
            point, group_of_columns = at
            return self.multiply(place, point, group_of_columns * columns, transformed, leading)

        def finish(tile: tirx.Expr) -> tirx.Stmt:
            return sequence(self.finish(place, tile, b) for b in range(shapes.tile.blocks))

        # The last columns may be of tiles that are not there: what they hold goes nowhere.
        groups = -(-count // columns) if isinstance(count, int) else tirx.floordiv(count + columns - 1, columns)
        stages = [nest([shapes.points, groups], multiply), serial(count, finish, "tile")]
        return allocate([self.products], stages)

    def multiply(
        self,
        place: _Place,
        point: tirx.Expr,
        begin: tirx.Expr,
        transformed: tirx.Buffer,
        leading: Sequence[tirx.Expr],
    ) -> tirx.Stmt:
        """M = U V at one point, for as many tiles as the register tile has columns."""
        shapes, lanes = self.shapes, self.machine.lanes
        registers = RegisterTile(shapes.tile, self.machine)

        def block_of_inputs(ib: tirx.Expr) -> tirx.Stmt:
            row = (place.group * self.input_blocks + ib) * shapes.chunk + begin

            def step(ii: tirx.Expr) -> tirx.Stmt:
                return registers.step(
                    range(shapes.tile.columns),
                    lambda t: load(transformed, [*leading, point, row + t, ii]),
                    lambda b, lane: load(self.weights, [place.group, place.tile, point, ib * lanes + ii, b, lane]),
                )

            extent: int | tirx.Expr = min(lanes, shapes.inputs)
            if shapes.inputs % lanes and self.input_blocks > 1:
                extent = tirx.min(lanes, shapes.inputs - ib * lanes)
            return serial(extent, step, "ii")

        def put(b: int, t: int, value: LaneValue) -> tirx.Stmt:
            row = b * shapes.chunk + begin + t
            return vectorized(lanes, lambda lane: store(self.products, [point, row, lane], value(lane)))

        return registers.run([serial(self.input_blocks, block_of_inputs, "ib")], put)

    def finish(self, place: _Place, tile: tirx.Expr, b: int) -> tirx.Stmt:
        """Transform a tile of outputs back, y = A^T M A, and store it through the epilogue."""
        shapes, lanes = self.shapes, self.machine.lanes
        index = place.chunk * shapes.chunk + tile
        image, *position = split_index(index, [shapes.batch, *shapes.tiles_per_axis])
        first = [p * transform.outputs for p, transform in zip(position, shapes.filters, strict=True)]
        outputs = [transform.outputs for transform in shapes.filters]
        row = b * shapes.chunk + tile
        block = place.tile * shapes.tile.blocks + b
        made = local("made", [*outputs, lanes])

        vectors = Vectors(lanes)
        values = vectors.synthesise_all(shapes.filters, lambda point, lane: load(self.products, [point, row, lane]))
        for at, value in zip(np.ndindex(*outputs), values, strict=True):
            vectors.write(lambda lane, at=at, v=value: store(made, [*at, lane], v(lane)))  # type: ignore[misc]

        def pixel(at: list[tirx.Expr]) -> tirx.Stmt:
            places = [w.stored_at(f + i) for w, f, i in zip(shapes.windows, first, at, strict=True)]

            def logical(lane: tirx.Expr) -> list[tirx.Expr]:
                if isinstance(lane, tirx.Var):
                    self.analyzer.bind(lane, ir.Range(0, lanes), True)
                return [image, place.group * shapes.outputs + block * lanes + lane, *places]

            return vector_store(
                lanes,
                lambda lane: self.epilogue.apply(load(made, [*at, lane]), logical(lane), self.others),
                lambda lane, v: store(self.result, physical(self.epilogue.layout, logical(lane), self.analyzer), v),
            )

        counts = [
            count if window.positions % count == 0 else tirx.min(count, window.positions - f)
            for count, window, f in zip(outputs, shapes.windows, first, strict=True)
        ]
        finished = allocate([made], [vectors.code(), nest(counts, pixel)])
        output_blocks = -(-shapes.outputs // lanes)
        present = output_blocks % shapes.tile.blocks
        return finished if not present or b < present else when(block < output_blocks, finished)


@dataclass(frozen=True)
class _Place:
    """What the outer loops have settled: group, tile of output blocks, and chunk of tiles."""

    group: tirx.Expr
    tile: tirx.Expr
    chunk: tirx.Expr
