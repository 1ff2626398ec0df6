"""Products of matrices of short numbers: the loops of the one over float32, around sums of products of words.

The right operand is packed as [batch...][tile of columns][word of the inner axis][block in tile][column lane].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels import matmul
from lepton_compile.kernels.dot_product import DotProductTile, Words, word
from lepton_compile.kernels.expressions import evaluate, is_inlined
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source, shape_of
from lepton_compile.kernels.loops import load, rolled, sequence
from lepton_compile.kernels.matmul import MatrixProduct, Place
from lepton_compile.kernels.register_tile import RegisterTile, TileShape


def packed_shape(words: Words, shapes: MatrixProduct, right_batch: Sequence[int], machine: Machine) -> tuple[int, ...]:
    """Shape of the packed right operand, whose batch axes are `right_batch`."""
    *outer, inner, blocks, lanes = matmul.packed_shape(shapes, right_batch, machine)
    return (*outer, -(-inner // words.count), blocks, lanes)


def pack_right(words: Words, right: npt.NDArray[Any], shapes: MatrixProduct, machine: Machine) -> npt.NDArray[np.int32]:
    """Pack a right operand of shape (batch..., inner, columns), zeros past the last row and column."""
    return words.pack(matmul.pack_right(right, shapes, machine))


def packed_right(words: Words, right: te.Tensor, shapes: MatrixProduct, machine: Machine) -> te.Tensor:
    """The same packing as a computation, for a right operand that is known only at run time."""
    *batch, inner, columns = shape_of(right)
    lanes, blocks, count = machine.lanes, shapes.tile.blocks, words.count
    bits = 32 // count

    def element(*at: tirx.Expr) -> tirx.Expr:
        *outer, tile, step, block, lane = at
        column = (tile * blocks + block) * lanes + lane

        def part(place: int) -> tirx.Expr:
            k = step * count + place
            value = tirx.reinterpret(f"uint{bits}", right(*outer, k, column)).astype("int32")
            inside = [column < columns] if columns % (blocks * lanes) else []
            inside += [k < inner] if inner % count else []
            guarded = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, "int32")) if inside else value
            return tirx.shift_left(guarded, tirx.const(bits * place, "int32"))

        return functools.reduce(tirx.bitwise_or, map(part, range(count)))

    return te.compute(packed_shape(words, shapes, batch, machine), element, name="packed")


def dot_matmul(
    words: Words,
    shapes: MatrixProduct,
    left: te.Tensor,
    source: Source,
    right_batch: Sequence[int],
    epilogue: Epilogue,
    machine: Machine,
) -> Definition:
    """A product of matrices of short numbers.

    Args:
        words: What is multiplied.
        shapes: Its shapes.
        left: The left operand, of shape (batch..., rows..., inner); its batch axes may be 1 or missing where it is
            broadcast.
        source: Where its elements are: the left operand itself, or a tensor that it has the elements of, in rows that
            are as contiguous.
        right_batch: Batch axes of the packed right operand; a 1 is broadcast.
        epilogue: What is stored, of the sums; of shape (batch..., rows..., columns), in plain layout.
        machine: The instruction set.

    Returns:
        A kernel of the left operand's source, the packed right operand, the epilogue's sources and the output.
    """
    return _Emitter(words, shapes, left, source, tuple(right_batch), epilogue, machine).definition()


class _Emitter(matmul.Emitter):
    """The same loops over a word of the inner axis at a time."""

    right_dtype = "int32"

    def __init__(
        self,
        words: Words,
        shapes: MatrixProduct,
        left: te.Tensor,
        source: Source,
        right_batch: tuple[int, ...],
        epilogue: Epilogue,
        machine: Machine,
    ) -> None:
        self.words = words
        self.family = f"{words.name} matmul"
        self.definitions = words.definitions(machine)
        super().__init__(shapes, left, source, False, right_batch, epilogue, machine)

    def packed_shape(self) -> tuple[int, ...]:
        return packed_shape(self.words, self.shapes, self.right_batch, self.machine)

    def registers(self, width: int) -> RegisterTile:
        return DotProductTile(self.words, TileShape(width, self.shapes.tile.blocks), self.machine)

    def reduce(self, place: Place, begin: tirx.Expr | int, width: int, registers: RegisterTile) -> tirx.Stmt:
        assert isinstance(registers, DotProductTile)
        count = self.words.count
        right_at = matmul.broadcast(place.batch, self.right_batch)

        def step(at: tirx.Expr, numbers: int = count) -> tirx.Stmt:
            return registers.add(
                range(width),
                lambda t: self.left_word(place, self.row(begin + t), at * count, numbers),
                lambda b, lane: load(self.packed, [*right_at, place.tile, at, b, lane]),
            )

        whole, rest = divmod(self.shapes.inner, count)
        steps = [rolled(whole, step, "word")] if whole else []
        return sequence([*steps, *([step(tirx.const(whole, "int32"), rest)] if rest else [])])

    def left_word(self, place: Place, row: Sequence[tirx.Expr], k: tirx.Expr, numbers: int) -> tirx.Expr:
        """Elements of the left operand from `k` on."""

        def loaded(tensor: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
            return word(self.words, self.machine, self.inputs.buffer(tensor), at, numbers)

        at = self.left_at(place, row, k)
        return evaluate(self.left, at, loaded, lambda each: each.op != self.source.op and is_inlined(each))
