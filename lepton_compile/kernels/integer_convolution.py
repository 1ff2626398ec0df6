"""Direct convolution of bytes: the loops of the one over float32, around sums of products of bytes.

The input is blocked by the machine's lanes, in bytes as the instruction counts them
(`lepton_compile.kernels.byte_products`).
Weights are signed bytes, packed as [set][tile of blocks][input block][kernel...][four inputs][block in tile][output
lane and byte]. The sums are those of the products of the numbers as counted, over the taps inside the input; what zero
points take off is the epilogue's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels import convolution
from lepton_compile.kernels.byte_products import BYTES
from lepton_compile.kernels.convolution import Convolution, Place
from lepton_compile.kernels.dot_product import DotProductTile, word
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source, physical
from lepton_compile.kernels.loops import load, rolled
from lepton_compile.kernels.register_tile import RegisterTile, TileShape


def packed_shape(shapes: Convolution, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights."""
    *outer, inputs, blocks, lanes = convolution.packed_shape(shapes, machine)
    return (*outer, -(-inputs // BYTES), blocks, lanes * BYTES)


def pack_weights(weights: npt.NDArray[np.int8], shapes: Convolution, machine: Machine) -> npt.NDArray[np.int8]:
    """Pack weights of shape (outputs * groups, inputs, kernel...), zeros where there is no channel."""
    packed = convolution.pack_weights(weights, shapes, machine)
    *outer, inputs, blocks, lanes = packed.shape
    steps = -(-inputs // BYTES)
    grown = np.pad(packed, [*[(0, 0)] * len(outer), (0, steps * BYTES - inputs), (0, 0), (0, 0)])
    split = grown.reshape(*outer, steps, BYTES, blocks, lanes)
    return np.ascontiguousarray(np.moveaxis(split, -3, -1)).reshape(packed_shape(shapes, machine))


def integer_convolution(shapes: Convolution, source: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A convolution of bytes.

    Args:
        shapes: Its shapes; groups are whole blocks of output channels, and their inputs whole blocks too.
        source: The input, of shape (batch, inputs * groups, spatial...) and type uint8 or int8, blocked by the
            machine's lanes.
        epilogue: What is stored, of int32 sums; its layout is blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the input, the packed weights, the epilogue's sources and the output.
    """
    return _Emitter(shapes, source, epilogue, machine, None).definition()


class _Emitter(convolution.Emitter):
    """The same loops over four inputs at a time."""

    family = "integer convolution"
    weights_dtype = "int8"

    def packed_shape(self) -> tuple[int, ...]:
        return packed_shape(self.shapes, self.machine)

    def registers(self, width: int) -> RegisterTile:
        return DotProductTile(TileShape(width, self.shapes.tile.blocks), self.machine)

    def lanes(
        self,
        place: Place,
        begin: tirx.Expr | int,
        columns: Sequence[int],
        registers: RegisterTile,
        ib: tirx.Expr,
        taps: Sequence[tirx.Expr | int],
    ) -> tirx.Stmt:
        assert isinstance(registers, DotProductTile)
        shapes, lanes = self.shapes, self.machine.lanes
        extent: int | tirx.Expr = self.input_steps
        if shapes.inputs % lanes and self.input_blocks > 1:
            left = shapes.inputs - ib * lanes
            extent = tirx.min(self.input_steps, tirx.floordiv(left + BYTES - 1, BYTES))
        (group,) = (segment.group for segment in place.segments)
        image = self.inputs.buffer(self.source.tensor)

        def step(quad: tirx.Expr) -> tirx.Stmt:
            def value(t: int) -> tirx.Expr:
                pixel = self.seen(place, begin + t, taps)
                channel = group * shapes.inputs + ib * lanes
                *outer, first = physical(self.source.layout, [place.image, channel, *pixel], self.analyzer)
                return word(self.machine, image, [*outer, first + quad * BYTES])

            return registers.add(
                columns,
                value,
                lambda b, at: load(self.weights, [place.set, place.tile, ib, *taps, quad, b, at]),
            )

        return rolled(extent, step, "quad")
