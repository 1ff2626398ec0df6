"""Matrix products whose right operand stays in 16, 8 or 4 bits in memory, and becomes float32 as it is read.

A product of a few rows takes as long as the right operand's way from memory: a half, a quarter or an eighth as many
bytes are that much faster. The loops are those of the product of float32. Numbers of 4 bits lie eight in a word, those
of neighbouring rows in one column, the first in the lowest bits. A number becomes a float where it lies in the word:
with the exponent of 2^(23 - i) in front, bits from the i-th on are the ones of that power plus the number, exactly.
Along the inner axis, blocks of numbers may have a scale each; the sum of a block is scaled, not its numbers:

    y = sum over blocks of scale * (sum of x (q - zero))

Where one scale holds for the whole inner axis, it is the epilogue's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels import matmul
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN, dense_rows, dense_size
from lepton_compile.kernels.loops import load, rolled, sequence
from lepton_compile.kernels.matmul import MatrixProduct, Place
from lepton_compile.kernels.register_tile import (
    LATENCY,
    LOAD_COST,
    LOAD_PORTS,
    LOOP_OVERHEAD,
    MULTIPLIERS,
    STREAM_BYTES,
    LaneValue,
    RegisterTile,
    TileShape,
)

WORD = 32
"""Bits of a word."""

MANTISSA = 23
"""Bits of a float32 behind its leading one."""

NIBBLES = 16
"""How many numbers 4 bits can hold."""


@dataclass(frozen=True)
class Packing:
    """How a right operand of integers is stored.

    Attributes:
        bits: 16, 8, or 4 for numbers of 0 to 15, which lie in words of 32.
        block: Numbers of the inner axis that share a scale and a zero point; at most all of them.
        scaled: Whether each block has a scale of its own; if not, numbers are multiplied as they are.
        zero: The zero point of all blocks, or None where each has its own.
    """

    bits: int
    block: int
    scaled: bool
    zero: int | None = 0

    @property
    def together(self) -> int:
        """Numbers in an element of the packed operand."""
        return WORD // self.bits if self.bits < 8 else 1

    def vectors(self, machine: Machine) -> int:
        """Vectors beside the accumulators that each block of columns of a register tile takes.

        Words wait until all of their numbers are taken out, each with constants of its own: with a fifth of the
        registers for a block, none goes to memory on AVX-512, AVX2 and NEON (found by looking at the code).
        """
        return 1 if self.together == 1 else machine.registers // 5

    def dense(self, machine: Machine) -> bool:
        """Whether rows lie one behind the other, without padding."""
        return machine.small and self.together == 1

    def elements(self, numbers: int) -> int:
        """Elements that hold so many numbers of one column."""
        return -(-numbers // self.together)

    def __str__(self) -> str:
        return f"{self.bits} bits" + (f" in blocks of {self.block}" if self.scaled else "")


def packed_shape(shapes: MatrixProduct, packing: Packing, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed right operand."""
    tiles, inner, blocks, lanes = matmul.packed_shape(shapes, (), machine)
    if packing.dense(machine):
        return (dense_size(inner, shapes.columns, tiles * blocks * lanes),)
    whole, rest = divmod(inner, packing.block)
    return (tiles, whole * packing.elements(packing.block) + packing.elements(rest), blocks, lanes)


def parameters_shape(shapes: MatrixProduct, packing: Packing, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed scales, and of the zero points."""
    tiles, inner, blocks, lanes = matmul.packed_shape(shapes, (), machine)
    return (tiles, -(-inner // packing.block), blocks, lanes)


def pack_right(
    right: npt.NDArray[Any], shapes: MatrixProduct, packing: Packing, machine: Machine
) -> npt.NDArray[np.uint8 | np.int8 | np.int16 | np.int32]:
    """Pack a right operand of integers, of shape (inner, columns)."""
    if packing.dense(machine):
        tiles, _, blocks, lanes = matmul.packed_shape(shapes, (), machine)
        return dense_rows(right, tiles * blocks * lanes)
    packed = matmul.pack_right(right, shapes, machine)
    if packing.together == 1:
        return packed
    words = []
    for begin in range(0, shapes.inner, packing.block):
        block = packed[:, begin : begin + packing.block]
        for first in range(0, block.shape[1], packing.together):
            numbers = block[:, first : first + packing.together].astype(np.uint32)
            shifts = np.arange(numbers.shape[1], dtype=np.uint32)[:, None, None] * np.uint32(packing.bits)
            words.append(np.bitwise_or.reduce(numbers << shifts, axis=1))
    return np.stack(words, axis=1).view(np.int32)


def pack_parameters(values: npt.NDArray[Any], shapes: MatrixProduct, machine: Machine) -> npt.NDArray[Any]:
    """Pack scales or zero points of shape (blocks of the inner axis, columns)."""
    of_blocks = MatrixProduct((), shapes.rows, values.shape[0], shapes.columns, shapes.tile)
    return matmul.pack_right(values, of_blocks, machine)


def cycles(shapes: MatrixProduct, packing: Packing | None, machine: Machine) -> float:
    """Predicted cycles of one core: the steps of all tiles, or the right operand's way from memory; None: of float32.

    Widening a vector takes two instructions of the units that multiply, and one more where they have a zero point.
    """
    tiles, inner, blocks, lanes = matmul.packed_shape(shapes, (), machine)
    widening, nbytes = 0, 4.0
    if packing is not None:
        widening = 2 + (packing.together == 1 and packing.zero != 0)
        nbytes = packing.bits / 8 + (4 / packing.block if packing.scaled else 0)

    def step(columns: int) -> float:
        loads = columns + blocks
        busy = (columns + widening) * blocks / MULTIPLIERS
        return LOOP_OVERHEAD + LOAD_COST * loads + max(busy, loads / LOAD_PORTS, LATENCY)

    full, tail = divmod(math.prod(shapes.rows), shapes.tile.columns)
    steps = tiles * inner * (full * step(shapes.tile.columns) + (step(tail) if tail else 0))
    return max(steps, tiles * inner * blocks * lanes * nbytes / STREAM_BYTES)


def dequantizing_matmul(
    shapes: MatrixProduct,
    packing: Packing,
    right_dtype: str,
    left: te.Tensor,
    source: Source,
    transposed: bool,
    epilogue: Epilogue,
    machine: Machine,
) -> Definition:
    """A matrix product.

    Args:
        shapes: Its shapes, without batch axes.
        packing: How the right operand is stored.
        right_dtype: "int16", "int8" or "uint8"; "int32" for 4 bits.
        left: The left operand, of shape (rows..., inner).
        source: Where its elements are: the left operand itself, or a tensor that it has the elements of.
        transposed: Whether the left operand has shape (inner, rows) instead.
        epilogue: What is stored, of shape (rows..., columns), in plain layout.
        machine: The instruction set.

    Returns:
        A kernel of the left operand's source, the packed right operand, the scales (float32) and zero points (uint8) of
        its blocks where it has them, the epilogue's sources and the output.
    """
    return _Emitter(shapes, packing, right_dtype, left, source, transposed, epilogue, machine).definition()


class _Emitter(matmul.Emitter):
    """The loops of the product of float32, with a right operand that is widened as it is read."""

    family = "dequantizing matmul"

    def __init__(
        self,
        shapes: MatrixProduct,
        packing: Packing,
        right_dtype: str,
        left: te.Tensor,
        source: Source,
        transposed: bool,
        epilogue: Epilogue,
        machine: Machine,
    ) -> None:
        self.packing, self.right_dtype = packing, right_dtype
        shape = parameters_shape(shapes, packing, machine)
        self.scales = te.placeholder(shape, "float32", name="scales")
        self.zeros = te.placeholder(shape, "uint8", name="zeros")
        super().__init__(shapes, left, source, transposed, (), epilogue, machine)

    def packed_shape(self) -> tuple[int, ...]:
        return packed_shape(self.shapes, self.packing, self.machine)

    def tables(self) -> Sequence[Source]:
        scales = [Source(self.scales, PLAIN)] if self.packing.scaled else []
        return [*scales, *([Source(self.zeros, PLAIN)] if self.packing.zero is None else [])]

    def reduce(self, place: Place, begin: tirx.Expr | int, width: int, registers: RegisterTile) -> tirx.Stmt:
        packing = self.packing

        def of_block(number: tirx.Expr, length: int) -> tirx.Stmt:
            if not packing.scaled:
                return self.sums(place, begin, registers, number, length)
            scales = self.inputs.buffer(self.scales)
            sums = RegisterTile(TileShape(width, self.shapes.tile.blocks), self.machine)

            def scaled(b: int, t: int, raw: LaneValue) -> tirx.Stmt:
                return registers.accumulate(b, t, lambda lane: raw(lane) * load(scales, [place.tile, number, b, lane]))

            return sums.run([self.sums(place, begin, sums, number, length)], scaled)

        whole, rest = divmod(self.shapes.inner, packing.block)
        blocks = [rolled(whole, lambda number: of_block(number, packing.block), "block")] if whole else []
        return sequence([*blocks, *([of_block(tirx.const(whole, "int32"), rest)] if rest else [])])

    def sums(
        self, place: Place, begin: tirx.Expr | int, registers: RegisterTile, number: tirx.Expr, length: int
    ) -> tirx.Stmt:
        """The sums of products of one block of the inner axis."""
        packing, columns = self.packing, range(registers.shape.columns)

        def step(element: tirx.Expr, count: int = packing.together) -> tirx.Stmt:
            def add(part: int) -> tirx.Stmt:
                k = number * packing.block + element * packing.together + part
                at = number * packing.elements(packing.block) + element
                return registers.step(
                    columns,
                    lambda t, _: self.left_value(place, self.row(begin + t), k),
                    lambda b, lane: self.right_value(place, at, number, b, lane, part),
                )

            return sequence(add(part) for part in range(count))

        whole, rest = divmod(length, packing.together)
        elements = [rolled(whole, step, "k")] if whole else []
        return sequence([*elements, *([step(tirx.const(whole, "int32"), rest)] if rest else [])])

    def right_value(
        self, place: Place, element: tirx.Expr, number: tirx.Expr, b: int, lane: tirx.Expr, part: int
    ) -> tirx.Expr:
        """A number of the right operand, less the zero point of its block: the `part`-th in its element."""
        bits, zero, shapes = self.packing.bits, self.packing.zero, self.shapes
        at = [place.tile, element, b, lane]
        if self.packing.dense(self.machine):
            at = [element * shapes.columns + (place.tile * shapes.tile.blocks + b) * self.machine.lanes + lane]
        value = load(self.packed, at)
        if zero is None:
            zeros = self.inputs.buffer(self.zeros)
            zero_point = load(zeros, [place.tile, number, b, lane]).astype("int32").astype("float32")
        else:
            zero_point = tirx.const(float(zero), "float32")
        if self.packing.together == 1:
            return value.astype("float32") if zero == 0 else value.astype("float32") - zero_point
        # Numbers whose bits the mantissa does not reach come down to the lowest bits.
        in_place = MANTISSA // bits * bits
        first = part * bits
        if first + bits > in_place:
            value, first = tirx.shift_right(value, in_place), first - in_place
        power = MANTISSA - first
        exponent = (127 + power) << MANTISSA
        number = tirx.reinterpret(
            "float32", tirx.bitwise_or(tirx.bitwise_and(value, (NIBBLES - 1) << first), tirx.const(exponent, "int32"))
        )
        return number - (tirx.const(float(2**power), "float32") + zero_point)
