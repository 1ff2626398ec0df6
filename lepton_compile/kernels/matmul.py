"""Matrix products in a register tile: rows of the left operand are its columns, vectors of the right one its blocks.

The right operand is packed as [batch...][tile of blocks][k][block in tile][lane], so that the innermost loop reads it
front to back. Constant weights are packed at compile time; anything else by an element-wise kernel before the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import count_operations, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.loops import function, load, parallel, parameter, sequence, serial, store, when
from lepton_compile.kernels.register_tile import UNROLLED_EPILOGUE, RegisterTile, TileShape, choose_tile


@dataclass(frozen=True)
class MatrixProduct:
    """The shapes of a (batched) matrix product.

    Attributes:
        rows: Extents that together index the rows of the left operand and of the result; with a right operand that has
        no
            batch axes of its own, the batch axes are rows too.
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
    batch: Sequence[int], rows: Sequence[int], inner: int, columns: int, machine: Machine
) -> MatrixProduct:
    """Choose the register tile of a matrix product."""
    tile = choose_tile(math.prod(rows), -(-columns // machine.lanes), machine)
    return MatrixProduct(tuple(batch), tuple(rows), inner, columns, tile)


def packed_shape(shapes: MatrixProduct, right_batch: Sequence[int], machine: Machine) -> tuple[int, ...]:
    """Shape of the packed right operand, whose batch axes are `right_batch`."""
    tiles = -(-shapes.columns // (machine.lanes * shapes.tile.blocks))
    return (*right_batch, tiles, shapes.inner, shapes.tile.blocks, machine.lanes)


def pack_right(right: npt.NDArray[np.float32], shapes: MatrixProduct, machine: Machine) -> npt.NDArray[np.float32]:
    """Pack a right operand of shape (batch..., inner, columns), zeros past the last column."""
    *batch, tiles, inner, blocks, lanes = packed_shape(shapes, right.shape[:-2], machine)
    padded = np.zeros((*batch, inner, tiles * blocks * lanes), dtype=right.dtype)
    padded[..., : shapes.columns] = right
    split = padded.reshape(*batch, inner, tiles, blocks, lanes)
    return np.ascontiguousarray(np.moveaxis(split, -3, len(batch)))


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
    left: Source,
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
        transposed: Whether the left operand has shape (inner, rows) instead.
        right_batch: Batch axes of the packed right operand; a 1 is broadcast.
        epilogue: What is stored, of shape (batch..., rows..., columns), in plain layout.
        machine: The instruction set.

    Returns:
        A kernel of the left operand, the packed right operand, the epilogue's sources and the output.
    """
    lanes, tile = machine.lanes, shapes.tile
    analyzer = sym.Analyzer()
    right = te.placeholder(packed_shape(shapes, right_batch, machine), "float32", name="right")
    inputs = Operands([left, Source(right, PLAIN)], analyzer)
    others = Operands(epilogue.sources, analyzer, first=2)
    packed = inputs.buffer(right)
    shape = (*shapes.batch, *shapes.rows, shapes.columns)
    result = parameter("y", epilogue.layout.physical_shape(shape), str(epilogue.result.dtype))
    rows = math.prod(shapes.rows)
    tiles = int(packed.shape[len(right_batch)])
    full, tail = divmod(rows, tile.columns)
    left_shape = shape_of(left.tensor)

    probe = [tirx.Var(f"p{axis}", "int32") for axis in range(len(shape))]
    cost = count_operations(epilogue.apply(tirx.Var("value", "float32"), probe, others))

    def broadcast(batch: Sequence[tirx.Expr], extents: Sequence[int]) -> list[tirx.Expr]:
        taken = batch[len(batch) - len(extents) :] if extents else []
        return [tirx.const(0, "int32") if e == 1 else i for i, e in zip(taken, extents, strict=True)]

    def left_at(batch: Sequence[tirx.Expr], row: Sequence[tirx.Expr], k: tirx.Expr) -> tirx.Expr:
        if transposed:
            return inputs.load(left.tensor, [k, *row])
        left_batch = left_shape[: len(left_shape) - 1 - len(row)]
        return inputs.load(left.tensor, [*broadcast(batch, left_batch), *row, k])

    def tile_of(batch: list[tirx.Expr], tile_index: tirx.Expr, begin: tirx.Expr | int, width: int) -> tirx.Stmt:
        registers = RegisterTile(TileShape(width, tile.blocks), machine)

        def row_at(t: int | tirx.Expr) -> list[tirx.Expr]:
            return split_index(begin + t, shapes.rows)

        right_at = broadcast(batch, right_batch)
        reduce = serial(
            shapes.inner,
            lambda k: registers.step(
                range(width),
                lambda t: left_at(batch, row_at(t), k),
                lambda b, lane: load(packed, [*right_at, tile_index, k, b, lane]),
            ),
            "k",
        )

        def put(b: int, row: list[tirx.Expr], value: Callable[[tirx.Expr, list[tirx.Expr]], tirx.Expr]) -> tirx.Stmt:
            first = (tile_index * tile.blocks + b) * lanes

            def at(lane: tirx.Expr) -> list[tirx.Expr]:
                return [*batch, *row, first + lane]

            def write(lane: tirx.Expr, v: tirx.Expr) -> tirx.Stmt:
                return store(result, physical(epilogue.layout, at(lane), analyzer), v)

            whole = vector_store(lanes, lambda lane: value(lane, at(lane)), write)
            if shapes.columns % (lanes * tile.blocks) == 0:
                return whole
            rest = serial(
                tirx.max(0, shapes.columns - first),
                lambda lane: vector_store(1, lambda _: value(lane, at(lane)), lambda _, v: write(lane, v)),
                "lane",
            )
            return when(first + lanes <= shapes.columns, whole, rest)

        def finished(b: int, t: int, lane_value: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
            return put(b, row_at(t), lambda lane, at: epilogue.apply(lane_value(lane), at, others))

        if cost <= UNROLLED_EPILOGUE:
            return registers.run([reduce], finished)

        def again(t: tirx.Expr) -> tirx.Stmt:
            def stored(lane: tirx.Expr, at: list[tirx.Expr]) -> tirx.Expr:
                return epilogue.apply(load(result, physical(epilogue.layout, at, analyzer)), at, others)

            return sequence(put(b, row_at(t), stored) for b in range(tile.blocks))

        raw = registers.run([reduce], lambda b, t, value: put(b, row_at(t), lambda lane, at: value(lane)))
        return sequence([raw, serial(width, again, "t")])

    row_tiles = full + bool(tail)
    # The outer loop reads its operand once, and the inner one's once per step: put the larger operand outside.
    rows_outside = shapes.columns * row_tiles < rows * tiles
    inner_loops = [row_tiles, tiles] if rows_outside else [tiles, row_tiles]
    extents = [*shapes.batch, *inner_loops]
    blocks = math.prod(extents)

    def block(index: tirx.Expr) -> tirx.Stmt:
        *batch, first, second = split_index(index, extents)
        w, tile_index = (first, second) if rows_outside else (second, first)
        whole = tile_of(batch, tile_index, w * tile.columns, tile.columns) if full else None
        if not tail:
            assert whole is not None
            return whole
        rest = tile_of(batch, tile_index, full * tile.columns, tail)
        return when(w < full, whole, rest) if whole is not None else rest

    parameters = [*inputs.parameters, *others.parameters]
    return Definition(
        function=function([*parameters, result], parallel(blocks, block)),
        inputs=len(parameters),
        blocks=blocks,
        family="matmul",
        operations=math.prod(shape) * (2 * shapes.inner + cost),
    )
