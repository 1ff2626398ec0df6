"""Products of matrices of bytes: the loops of the one over float32, around sums of products of bytes.

The left operand holds unsigned bytes, or signed ones, which count as 128 more than they are. The right operand is of
signed bytes, packed as [tile of columns][four of the inner axis][block in tile][column lane and byte].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels import matmul
from lepton_compile.kernels.byte_products import BYTES
from lepton_compile.kernels.dot_product import DotProductTile, word
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source
from lepton_compile.kernels.loops import load, rolled, sequence
from lepton_compile.kernels.matmul import MatrixProduct, Place
from lepton_compile.kernels.register_tile import RegisterTile, TileShape


def packed_shape(shapes: MatrixProduct, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed right operand."""
    tiles, inner, blocks, lanes = matmul.packed_shape(shapes, (), machine)
    return (tiles, -(-inner // BYTES), blocks, lanes * BYTES)


def pack_right(right: npt.NDArray[np.int8], shapes: MatrixProduct, machine: Machine) -> npt.NDArray[np.int8]:
    """Pack a right operand of shape (inner, columns), zeros past the last row and column."""
    tiles, inner, blocks, lanes = matmul.packed_shape(shapes, (), machine)
    packed = np.pad(matmul.pack_right(right, shapes, machine), [(0, 0), (0, -inner % BYTES), (0, 0), (0, 0)])
    packed = packed.reshape(tiles, -1, BYTES, blocks, lanes)
    return np.ascontiguousarray(np.moveaxis(packed, 2, -1)).reshape(packed_shape(shapes, machine))


def integer_matmul(shapes: MatrixProduct, left: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A product of matrices of bytes.

    Args:
        shapes: Its shapes, without batch axes.
        left: The left operand, of shape (rows..., inner) and type uint8 or int8, in plain layout.
        epilogue: What is stored, of int32 sums; of shape (rows..., columns), in plain layout.
        machine: The instruction set.

    Returns:
        A kernel of the left operand, the packed right operand, the epilogue's sources and the output.
    """
    return _Emitter(shapes, left.tensor, left, False, (), epilogue, machine).definition()


class _Emitter(matmul.Emitter):
    """The same loops over four of the inner axis at a time."""

    family = "integer matmul"
    right_dtype = "int8"

    def packed_shape(self) -> tuple[int, ...]:
        return packed_shape(self.shapes, self.machine)

    def registers(self, width: int) -> RegisterTile:
        return DotProductTile(TileShape(width, self.shapes.tile.blocks), self.machine)

    def reduce(self, place: Place, begin: tirx.Expr | int, width: int, registers: RegisterTile) -> tirx.Stmt:
        assert isinstance(registers, DotProductTile)
        left = self.inputs.buffer(self.left)

        def step(quad: tirx.Expr, count: int = BYTES) -> tirx.Stmt:
            return registers.add(
                range(width),
                lambda t: word(self.machine, left, [*self.row(begin + t), quad * BYTES], count),
                lambda b, at: load(self.packed, [place.tile, quad, b, at]),
            )

        quads, rest = divmod(self.shapes.inner, BYTES)
        whole = [rolled(quads, step, "quad")] if quads else []
        return sequence([*whole, *([step(tirx.const(quads, "int32"), rest)] if rest else [])])
