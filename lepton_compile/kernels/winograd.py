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
from lepton_compile.kernels.expressions import vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, filled, physical, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    local,
    nest,
    parallel,
    parameter,
    rolled,
    sequence,
    serial,
    store,
    vectorized,
    when,
)  # fmt: skip
from lepton_compile.kernels.register_tile import LaneValue, RegisterTile
from lepton_compile.kernels.toom_cook import Vectors
from lepton_compile.kernels.winograd_plan import Winograd, packed_shape, product_rows, transformed_shape


def input_transform(plan: Winograd, source: Source, machine: Machine) -> Definition:
    """The first stage of a staged convolution.

    Args:
        plan: How it is cut.
        source: The input, of shape (batch, inputs * groups, spatial...), blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the input and the transformed input.
    """
    operands = Operands([source], sym.Analyzer())
    analysis = _Analysis(plan, operands.buffer(source.tensor), machine)
    transformed = parameter("v", transformed_shape(plan, machine), "float32")
    extents = [plan.input_blocks(machine.lanes), plan.tiles]

    def block(index: tirx.Expr) -> tirx.Stmt:
        channels, tile = split_index(index, extents)
        chunk = tirx.floordiv(tile, plan.chunk)
        return analysis.tile(tile, channels, tile - chunk * plan.chunk, transformed, [chunk])

    return Definition(
        function=function([*operands.parameters, transformed], parallel(math.prod(extents), block)),
        inputs=1,
        blocks=math.prod(extents),
        family="winograd input",
        operations=0,
    )


def convolution(plan: Winograd, source: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A convolution, or, of a staged one, all that comes after the input's transform.

    Args:
        plan: How it is cut.
        source: The input, of shape (batch, inputs * groups, spatial...), blocked by the machine's lanes; of a staged
            convolution, what `input_transform` made, in plain layout.
        epilogue: What is stored; its layout is blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the source, the packed weights, the epilogue's sources and the output. Of its operations, those of
        the transforms are not counted.
    """
    return _Emitter(plan, source, epilogue, machine).definition()


class _Analysis:
    """The transform of the input: V = B^T d B."""

    def __init__(self, plan: Winograd, image: tirx.Buffer, machine: Machine) -> None:
        self.plan, self.image, self.lanes = plan, image, machine.lanes
        self.extents = [transform.points for transform in plan.filters]
        self.strides = [window.stride for window in plan.shape.windows]

    def tile(
        self, tile: tirx.Expr, channels: tirx.Expr, place: tirx.Expr, result: tirx.Buffer, leading: Sequence[tirx.Expr]
    ) -> tirx.Stmt:
        """Transform what a tile sees of a block of channels, and store it as the tile `place` of its chunk.

        Args:
            tile: Which of all tiles.
            channels: Which of all blocks of channels: group, phase along each axis, block in the group.
            place: Which tile of the chunk.
            result: The transformed input.
            leading: Its indices in front of the point's.
        """
        plan = self.plan
        image, *position = split_index(tile, [plan.shape.batch, *plan.tiles_per_axis])
        blocks = -(-plan.shape.inputs // self.lanes)
        group, *phase, block = split_index(channels, [plan.shape.groups, *self.strides, blocks])
        first = [
            p * (transform.outputs * window.stride) + (residue - window.pad)
            for p, transform, window, residue in zip(position, plan.filters, plan.shape.windows, phase, strict=True)
        ]
        source = [image, group * blocks + block]
        seen = local("seen", [*self.extents, self.lanes])

        def from_image(at: Sequence[int], lane: tirx.Expr) -> tirx.Expr:
            return load(self.image, [*source, *self.inputs_at(first, at), lane])

        def transformed(read: Callable[[Sequence[int], tirx.Expr], tirx.Expr]) -> tirx.Stmt:
            vectors = Vectors(self.lanes)
            values = vectors.analyse_all(plan.filters, read)
            row = channels * plan.chunk + place
            for point, value in enumerate(values):
                vectors.write(lambda lane, p=point, v=value: store(result, [*leading, p, row, lane], v(lane)))  # type: ignore[misc]
            return vectors.code()

        if not any(self.overhangs(axis) for axis in range(len(first))):
            return transformed(from_image)
        last = self.inputs_at(first, [extent - 1 for extent in self.extents])
        bounds = zip(first, last, plan.shape.windows, strict=True)
        inside = tirx.all(*(tirx.all(low >= 0, high < window.input) for low, high, window in bounds))
        gathered = self.gather(seen, source, first)
        border = allocate([seen], [gathered, transformed(lambda at, lane: load(seen, [*at, lane]))])
        return when(inside, transformed(from_image), border)

    def overhangs(self, axis: int) -> bool:
        """Whether some tile sees inputs in front of the first one, or behind the last, along an axis."""
        window, transform = self.plan.shape.windows[axis], self.plan.filters[axis]
        last = (self.plan.tiles_per_axis[axis] - 1) * transform.outputs + transform.points - 1
        return window.pad > 0 or last * window.stride + window.stride - 1 - window.pad >= window.input

    def inputs_at(self, first: Sequence[tirx.Expr], at: Sequence[tirx.Expr | int]) -> list[tirx.Expr]:
        """The input at a position in a tile, given that at its first."""
        return [f + i * stride for f, i, stride in zip(first, at, self.strides, strict=True)]

    def gather(self, seen: tirx.Buffer, source: Sequence[tirx.Expr], first: Sequence[tirx.Expr]) -> tirx.Stmt:
        """Copy what a tile at a border sees, with zeros around it."""
        windows = self.plan.shape.windows
        lows = [
            tirx.max(0, tirx.floordiv(stride - 1 - f, stride)) for f, stride in zip(first, self.strides, strict=True)
        ]
        counts = [
            tirx.max(0, tirx.min(extent, tirx.floordiv(w.input - 1 - f, w.stride) + 1) - low)
            for extent, w, f, low in zip(self.extents, windows, first, lows, strict=True)
        ]

        def clear(at: list[tirx.Expr]) -> tirx.Stmt:
            return vectorized(self.lanes, lambda lane: store(seen, [*at, lane], tirx.const(0, "float32")))

        def copy(index: list[tirx.Expr]) -> tirx.Stmt:
            at = [low + i for low, i in zip(lows, index, strict=True)]
            place = [*source, *self.inputs_at(first, at)]
            return vectorized(self.lanes, lambda lane: store(seen, [*at, lane], load(self.image, [*place, lane])))

        return sequence([nest(self.extents, clear), nest(counts, copy)])


class _Emitter:
    """The products and the transform of the output; of a fused convolution, the transform of the input before them."""

    def __init__(self, plan: Winograd, source: Source, epilogue: Epilogue, machine: Machine) -> None:
        self.plan, self.epilogue, self.machine = plan, epilogue, machine
        self.analyzer = sym.Analyzer()
        packed = te.placeholder(packed_shape(plan, machine), "float32", name="weights")
        self.inputs = Operands([source, Source(packed, PLAIN)], self.analyzer)
        self.others = Operands(epilogue.sources, self.analyzer, first=2)
        self.source, self.weights = self.inputs.parameters
        self.input_blocks = -(-plan.shape.inputs // machine.lanes)
        self.output_tiles = plan.output_tiles(machine.lanes)
        shape = shape_of(epilogue.result)
        self.result = parameter("y", epilogue.layout.physical_shape(shape), str(epilogue.result.dtype))
        self.products = local("products", [plan.points, product_rows(plan), machine.lanes])
        self.cost = epilogue.cost(self.others)

    def definition(self) -> Definition:
        """The kernel: chunks of tiles, and, of a staged convolution, tiles of output channels."""
        plan = self.plan
        output_tiles = [plan.shape.groups, self.output_tiles]
        extents = [*output_tiles, plan.chunks] if plan.staged else [plan.chunks]

        def block(index: tirx.Expr) -> tirx.Stmt:
            if not plan.staged:
                return self.chunk(index)
            group, tile, chunk = split_index(index, extents)
            return self.output_tile(_Place(group, tile, chunk), self.source, [chunk])

        parameters = [*self.inputs.parameters, *self.others.parameters]
        positions = plan.shape.batch * math.prod(window.positions for window in plan.shape.windows)
        each = 2 * plan.points * plan.tiles * plan.phases * plan.shape.inputs + positions * self.cost
        return Definition(
            function=function([*parameters, self.result], parallel(math.prod(extents), block)),
            inputs=len(parameters),
            blocks=math.prod(extents),
            family="winograd",
            operations=plan.shape.groups * plan.shape.outputs * each,
            filled=filled(plan.shape.outputs, self.machine),
        )

    def chunk(self, chunk: tirx.Expr) -> tirx.Stmt:
        """All stages of a chunk of tiles."""
        plan = self.plan
        blocks = plan.input_blocks(self.machine.lanes)
        transformed = local("transformed", transformed_shape(plan, self.machine)[1:])
        analysis = _Analysis(plan, self.source, self.machine)

        def tile(at: list[tirx.Expr]) -> tirx.Stmt:
            channels, place = at
            return analysis.tile(chunk * plan.chunk + place, channels, place, transformed, [])

        def outputs(at: list[tirx.Expr]) -> tirx.Stmt:
            group, tile = at
            return self.output_tile(_Place(group, tile, chunk), transformed, [])

        stages = [nest([blocks, self.count(chunk)], tile), nest([plan.shape.groups, self.output_tiles], outputs)]
        return allocate([transformed], stages)

    def count(self, chunk: tirx.Expr) -> tirx.Expr | int:
        """Tiles in a chunk."""
        plan = self.plan
        if plan.tiles % plan.chunk == 0:
            return plan.chunk
        return tirx.min(plan.chunk, plan.tiles - chunk * plan.chunk)

    def output_tile(self, place: _Place, transformed: tirx.Buffer, leading: Sequence[tirx.Expr]) -> tirx.Stmt:
        """The products of a chunk of tiles with a tile of output channels, and what becomes of them."""
        plan, columns = self.plan, self.plan.tile.columns
        count = self.count(place.chunk)

        def multiply(at: list[tirx.Expr]) -> tirx.Stmt:
            point, group_of_columns = at
            return self.multiply(place, point, group_of_columns * columns, transformed, leading)

        def finish(tile: tirx.Expr) -> tirx.Stmt:
            return sequence(self.finish(place, tile, b) for b in range(plan.tile.blocks))

        # The last columns may be of tiles that are not there: what they hold goes nowhere.
        groups = -(-count // columns) if isinstance(count, int) else tirx.floordiv(count + columns - 1, columns)
        stages = [nest([plan.points, groups], multiply), serial(count, finish, "tile")]
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
        plan, lanes = self.plan, self.machine.lanes
        registers = RegisterTile(plan.tile, self.machine)

        def block_of_inputs(at: list[tirx.Expr]) -> tirx.Stmt:
            phase, ib = at
            row = ((place.group * plan.phases + phase) * self.input_blocks + ib) * plan.chunk + begin
            first = phase * plan.shape.inputs + ib * lanes

            def step(ii: tirx.Expr) -> tirx.Stmt:
                return registers.step(
                    range(plan.tile.columns),
                    lambda t, _: load(transformed, [*leading, point, row + t, ii]),
                    lambda b, lane: load(self.weights, [place.group, place.tile, point, first + ii, b, lane]),
                )

            extent: int | tirx.Expr = min(lanes, plan.shape.inputs)
            if plan.shape.inputs % lanes and self.input_blocks > 1:
                extent = tirx.min(lanes, plan.shape.inputs - ib * lanes)
            return rolled(extent, step, "ii")

        def put(b: int, t: int, value: LaneValue) -> tirx.Stmt:
            row = b * plan.chunk + begin + t
            return vectorized(lanes, lambda lane: store(self.products, [point, row, lane], value(lane)))

        return registers.run([nest([plan.phases, self.input_blocks], block_of_inputs)], put)

    def finish(self, place: _Place, tile: tirx.Expr, b: int) -> tirx.Stmt:
        """Transform a tile of outputs back, y = A^T M A, and store it through the epilogue."""
        plan, lanes = self.plan, self.machine.lanes
        index = place.chunk * plan.chunk + tile
        image, *position = split_index(index, [plan.shape.batch, *plan.tiles_per_axis])
        first = [p * transform.outputs for p, transform in zip(position, plan.filters, strict=True)]
        outputs = [transform.outputs for transform in plan.filters]
        row = b * plan.chunk + tile
        block = place.tile * plan.tile.blocks + b
        made = local("made", [*outputs, lanes])

        vectors = Vectors(lanes)
        values = vectors.synthesise_all(plan.filters, lambda point, lane: load(self.products, [point, row, lane]))
        for at, value in zip(np.ndindex(*outputs), values, strict=True):
            vectors.write(lambda lane, at=at, v=value: store(made, [*at, lane], v(lane)))  # type: ignore[misc]

        def pixel(at: list[tirx.Expr]) -> tirx.Stmt:
            places = [w.stored_at(f + i) for w, f, i in zip(plan.shape.windows, first, at, strict=True)]

            def logical(lane: tirx.Expr) -> list[tirx.Expr]:
                if isinstance(lane, tirx.Var):
                    self.analyzer.bind(lane, ir.Range(0, lanes), True)
                return [image, place.group * plan.shape.outputs + block * lanes + lane, *places]

            return vector_store(
                lanes,
                lambda lane: self.epilogue.apply(load(made, [*at, lane]), logical(lane), self.others),
                lambda lane, v: store(self.result, physical(self.epilogue.layout, logical(lane), self.analyzer), v),
            )

        counts = [
            count if window.positions % count == 0 else tirx.min(count, window.positions - f)
            for count, window, f in zip(outputs, plan.shape.windows, first, strict=True)
        ]
        finished = allocate([made], [vectors.code(), nest(counts, pixel)])
        output_blocks = -(-plan.shape.outputs // lanes)
        present = output_blocks % plan.tile.blocks
        return finished if not present or b < present else when(block < output_blocks, finished)


@dataclass(frozen=True)
class _Place:
    """What the outer loops have settled: group, tile of output blocks, and chunk of tiles."""

    group: tirx.Expr
    tile: tirx.Expr
    chunk: tirx.Expr
