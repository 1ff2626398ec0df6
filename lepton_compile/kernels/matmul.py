"""Matrix products in a register tile: rows of the left operand are its columns, vectors of the right one its blocks.

The right operand is packed as [batch...][tile of blocks][k][block in tile][lane], so that the innermost loop reads it
front to back. Constant weights are packed at compile time; anything else by an element-wise kernel before the product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tvm import sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import evaluate, is_inlined, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, filled, physical, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.loops import function, load, parallel, parameter, rolled, sequence, serial, store, when
from lepton_compile.kernels.register_tile import (
    UNROLLED_EPILOGUE,
    LaneValue,
    RegisterTile,
    StoredTile,
    TileShape,
    choose_tile,
)

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class MatrixProduct:
    """The shapes of a (batched) matrix product.

    Attributes:
        rows: Extents that together index the rows of the left operand and of the result; with a right operand that
            has no batch axes of its own, the batch axes are rows too.
        batch: Batch axes of the result that the right operand follows.
        inner: Length of the dot products.
        columns: Columns of the right operand.
        tile: The register tile: its columns are rows of the left operand.
    """

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    inner: int
    columns: int
    tile: TileShape


def matrix_product_of(
    batch: Sequence[int], rows: Sequence[int], inner: int, columns: int, machine: Machine, vectors: int = 1
) -> MatrixProduct:
    """Choose the register tile of a matrix product; `vectors` as in `rank_tiles`."""
    tile = choose_tile(math.prod(rows), -(-columns // machine.lanes), machine, vectors)
    return MatrixProduct(tuple(batch), tuple(rows), inner, columns, tile)


def packed_shape(shapes: MatrixProduct, right_batch: Sequence[int], machine: Machine) -> tuple[int, ...]:
    """Shape of the packed right operand, whose batch axes are `right_batch`."""
    tiles = -(-shapes.columns // (machine.lanes * shapes.tile.blocks))
    return (*right_batch, tiles, shapes.inner, shapes.tile.blocks, machine.lanes)


def pack_right(right: npt.NDArray[Number], shapes: MatrixProduct, machine: Machine) -> npt.NDArray[Number]:
    """Pack a right operand of shape (batch..., inner, columns), zeros past the last column."""
    packed = np.zeros(packed_shape(shapes, right.shape[:-2], machine), dtype=right.dtype)
    *batch, tiles, inner, blocks, lanes = packed.shape
    width = blocks * lanes
    by_column = packed.reshape(*batch, tiles, inner, width)
    for tile in range(tiles):
        part = right[..., tile * width : (tile + 1) * width]
        by_column[..., tile, :, : part.shape[-1]] = part
    return packed


def packed_right(right: te.Tensor, shapes: MatrixProduct, machine: Machine) -> te.Tensor:
    """The same packing as a computation, for a right operand that is known only at run time."""
    *batch, _ = shape_of(right)[:-1]
    lanes, blocks = machine.lanes, shapes.tile.blocks

    def element(*at: tirx.Expr) -> tirx.Expr:
        *outer, tile, k, block, lane = at
        column = (tile * blocks + block) * lanes + lane
        if shapes.columns % (blocks * lanes) == 0:
            return right(*outer, k, column)
        return tirx.if_then_else(column < shapes.columns, right(*outer, k, column), tirx.const(0, str(right.dtype)))

    return te.compute(packed_shape(shapes, batch, machine), element, name="packed")


def matmul(
    shapes: MatrixProduct,
    left: te.Tensor,
    source: Source,
    transposed: bool,
    right_batch: Sequence[int],
    epilogue: Epilogue,
    machine: Machine,
) -> Definition:
    """A matrix product.

    Args:
        shapes: Its shapes.
        left: The left operand, of shape (batch..., rows..., inner); its batch axes may be 1 or missing where it is
            broadcast.
        source: Where its elements are: the left operand itself, or a tensor that it has the elements of.
        transposed: Whether the left operand has shape (inner, rows) instead.
        right_batch: Batch axes of the packed right operand; a 1 is broadcast.
        epilogue: What is stored, of shape (batch..., rows..., columns), in plain layout.
        machine: The instruction set.

    Returns:
        A kernel of the left operand's source, the packed right operand, the epilogue's sources and the output.
    """
    return Emitter(shapes, left, source, transposed, tuple(right_batch), epilogue, machine).definition()


class Emitter:
    """The loops of one matrix product, from the innermost step to the outermost block."""

    family = "matmul"
    right_dtype = "float32"
    definitions = ""

    def __init__(
        self,
        shapes: MatrixProduct,
        left: te.Tensor,
        source: Source,
        transposed: bool,
        right_batch: tuple[int, ...],
        epilogue: Epilogue,
        machine: Machine,
    ) -> None:
        self.shapes, self.left, self.source = shapes, left, source.tensor
        self.transposed, self.right_batch = transposed, right_batch
        self.epilogue, self.machine = epilogue, machine
        self.analyzer = sym.Analyzer()
        right = te.placeholder(self.packed_shape(), self.right_dtype, name="right")
        self.inputs = Operands([source, Source(right, PLAIN), *self.tables()], self.analyzer)
        self.others = Operands(epilogue.sources, self.analyzer, first=len(self.inputs.parameters))
        self.packed = self.inputs.buffer(right)
        self.tiles = packed_shape(shapes, right_batch, machine)[len(right_batch)]
        self.shape = (*shapes.batch, *shapes.rows, shapes.columns)
        self.result = parameter("y", epilogue.layout.physical_shape(self.shape), str(epilogue.result.dtype))
        self.cost = epilogue.cost(self.others)

    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the packed right operand."""
        return packed_shape(self.shapes, self.right_batch, self.machine)

    def tables(self) -> Sequence[Source]:
        """What the kernel reads beside the two operands to make sense of the packed one."""
        return []

    def registers(self, width: int) -> RegisterTile:
        """The accumulators of a tile of so many rows."""
        return RegisterTile(TileShape(width, self.shapes.tile.blocks), self.machine)

    def definition(self) -> Definition:
        """The kernel: tiles of rows and tiles of columns."""
        shapes = self.shapes
        rows = math.prod(shapes.rows)
        full, tail = divmod(rows, shapes.tile.columns)
        row_tiles = full + bool(tail)
        # The outer loop reads its operand once, and the inner one's once per step: put the larger operand outside.
        rows_outside = shapes.columns * row_tiles < rows * self.tiles
        extents = [*shapes.batch, *([row_tiles, self.tiles] if rows_outside else [self.tiles, row_tiles])]
        blocks = math.prod(extents)

        def block(index: tirx.Expr) -> tirx.Stmt:
            *batch, first, second = split_index(index, extents)
            w, tile = (first, second) if rows_outside else (second, first)
            place, width = Place(tuple(batch), tile), shapes.tile.columns
            if not tail:
                return self.tile(place, w * width, width)
            rest = self.tile(place, full * width, tail)
            return when(w < full, self.tile(place, w * width, width), rest) if full else rest

        parameters = [*self.inputs.parameters, *self.others.parameters]
        return Definition(
            function=function([*parameters, self.result], parallel(blocks, block), self.definitions),
            inputs=len(parameters),
            blocks=blocks,
            family=self.family,
            operations=math.prod(self.shape) * (2 * shapes.inner + self.cost),
            filled=filled(shapes.columns, self.machine),
        )

    def tile(self, place: Place, begin: tirx.Expr | int, width: int) -> tirx.Stmt:
        """One tile of `width` rows from `begin` on."""
        registers = self.registers(width)
        reduce = self.reduce(place, begin, width, registers)
        if self.cost <= UNROLLED_EPILOGUE:
            return registers.run([reduce], lambda b, t, raw: self.finish(place, b, self.row(begin + t), raw))
        if str(self.epilogue.result.dtype) != registers.dtype:
            return self.tile_by_way(place, begin, registers, reduce)

        def again(t: tirx.Expr) -> tirx.Stmt:
            row = self.row(begin + t)
            return sequence(self.finish_stored(place, b, row) for b in range(self.shapes.tile.blocks))

        raw = registers.run([reduce], lambda b, t, value: self.store_lanes(place, b, self.row(begin + t), value))
        return sequence([raw, serial(width, again, "t")])

    def reduce(self, place: Place, begin: tirx.Expr | int, width: int, registers: RegisterTile) -> tirx.Stmt:
        """The sums of products of a tile."""
        right_at = broadcast(place.batch, self.right_batch)

        def step(k: tirx.Expr) -> tirx.Stmt:
            return registers.step(
                range(width),
                lambda t, _: self.left_value(place, self.row(begin + t), k),
                lambda b, lane: load(self.packed, [*right_at, place.tile, k, b, lane]),
            )

        return rolled(self.shapes.inner, step, "k")

    def tile_by_way(
        self, place: Place, begin: tirx.Expr | int, registers: RegisterTile, reduce: tirx.Stmt
    ) -> tirx.Stmt:
        """One tile whose sums are of another type than the result, and wait for the epilogue elsewhere."""

        def again(sums: StoredTile, t: tirx.Expr) -> tirx.Stmt:
            row = self.row(begin + t)
            return sequence(self.finish(place, b, row, sums(t, b)) for b in range(self.shapes.tile.blocks))

        return registers.run_stored([reduce], again)

    def row(self, position: tirx.Expr | int) -> list[tirx.Expr]:
        """Indices of a row from its position among all rows."""
        return split_index(position, self.shapes.rows)

    def left_value(self, place: Place, row: Sequence[tirx.Expr], k: tirx.Expr) -> tirx.Expr:
        """An element of the left operand."""
        at = self.left_at(place, row, k)
        return evaluate(self.left, at, self.inputs.load, lambda each: each.op != self.source.op and is_inlined(each))

    def left_at(self, place: Place, row: Sequence[tirx.Expr], k: tirx.Expr) -> list[tirx.Expr]:
        """The indices of an element of the left operand."""
        shape = shape_of(self.left)
        batch = broadcast(place.batch, shape[: len(shape) - 1 - len(row)])
        return [k, *row] if self.transposed else [*batch, *row, k]

    def address(self, place: Place, b: int, row: Sequence[tirx.Expr], lane: tirx.Expr) -> list[tirx.Expr]:
        """The logical indices of a lane of the tile's block `b`."""
        return [*place.batch, *row, (place.tile * self.shapes.tile.blocks + b) * self.machine.lanes + lane]

    def finish(self, place: Place, b: int, row: Sequence[tirx.Expr], raw: LaneValue) -> tirx.Stmt:
        """Store a block of a row through the epilogue."""

        def value(lane: tirx.Expr) -> tirx.Expr:
            return self.epilogue.apply(raw(lane), self.address(place, b, row, lane), self.others)

        return self.store_lanes(place, b, row, value)

    def finish_stored(self, place: Place, b: int, row: Sequence[tirx.Expr]) -> tirx.Stmt:
        """Put a block that was stored as it was through the epilogue."""

        def stored(lane: tirx.Expr) -> tirx.Expr:
            at = self.address(place, b, row, lane)
            return load(self.result, physical(self.epilogue.layout, at, self.analyzer))

        return self.finish(place, b, row, stored)

    def store_lanes(self, place: Place, b: int, row: Sequence[tirx.Expr], value: LaneValue) -> tirx.Stmt:
        """Store a block of a row: a vector, or, past the last whole one, the columns that there are."""
        lanes, columns = self.machine.lanes, self.shapes.columns

        def put(lane: tirx.Expr, v: tirx.Expr) -> tirx.Stmt:
            at = self.address(place, b, row, lane)
            return store(self.result, physical(self.epilogue.layout, at, self.analyzer), v)

        def single(lane: tirx.Expr) -> tirx.Stmt:
            return vector_store(1, lambda _: value(lane), lambda _, v: put(lane, v))

        whole = vector_store(lanes, value, put)
        if columns % (lanes * self.shapes.tile.blocks) == 0:
            return whole
        first = (place.tile * self.shapes.tile.blocks + b) * lanes
        return when(first + lanes <= columns, whole, serial(tirx.max(0, columns - first), single, "lane"))


@dataclass(frozen=True)
class Place:
    """What the outer loops have settled: the indices of the batch axes, and the tile of columns."""

    batch: tuple[tirx.Expr, ...]
    tile: tirx.Expr


def broadcast(batch: Sequence[tirx.Expr], extents: Sequence[int]) -> list[tirx.Expr]:
    """Indices of an operand's own batch axes, the last ones of the result's; 0 where it is broadcast."""
    taken = batch[len(batch) - len(extents) :]
    return [tirx.const(0, "int32") if size == 1 else index for index, size in zip(taken, extents, strict=True)]
