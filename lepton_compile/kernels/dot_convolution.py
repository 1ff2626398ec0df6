"""Direct convolution of short numbers: the loops of the one over float32, around sums of products of words.

The input is blocked by the machine's lanes. Weights are packed as [set][tile of blocks][input block][kernel...][word of
inputs][block in tile][output lane]. The sums are those of the products of the numbers as stored, over the taps inside
the input; what zero points take off is the epilogue's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels import convolution, convolution_plan
from lepton_compile.kernels.convolution import Place
from lepton_compile.kernels.convolution_plan import Convolution
from lepton_compile.kernels.dot_product import DotProductTile, Words, word
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source, physical
from lepton_compile.kernels.loops import load, rolled
from lepton_compile.kernels.register_tile import RegisterTile, TileShape


def packed_shape(words: Words, shapes: Convolution, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights."""
    *outer, inputs, blocks, lanes = convolution_plan.packed_shape(shapes, machine)
    return (*outer, -(-inputs // words.count), blocks, lanes)


def pack_weights(
    words: Words, weights: npt.NDArray[Any], shapes: Convolution, machine: Machine
) -> npt.NDArray[np.int32]:
    """Pack weights of shape (outputs * groups, inputs, kernel...), zeros where there is no channel."""
    return words.pack(convolution_plan.pack_weights(weights, shapes, machine))


def dot_convolution(
    words: Words, shapes: Convolution, source: Source, epilogue: Epilogue, machine: Machine
) -> Definition:
    """A convolution of short numbers.

    Args:
        words: What is multiplied.
        shapes: Its shapes; groups are whole blocks of output channels, and their inputs whole blocks too.
        source: The input, of shape (batch, inputs * groups, spatial...), blocked by the machine's lanes.
        epilogue: What is stored, of the sums; its layout is blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the input, the packed weights, the epilogue's sources and the output.
    """
    return _Emitter(words, shapes, source, epilogue, machine).definition()


class _Emitter(convolution.Emitter):
    """The same loops over a word of inputs at a time."""

    def __init__(self, words: Words, shapes: Convolution, source: Source, epilogue: Epilogue, machine: Machine) -> None:
        self.words = words
        self.family = f"{words.name} convolution"
        self.definitions = words.definitions(machine)
        super().__init__(shapes, source, epilogue, machine, None, "int32")

    def packed_shape(self) -> tuple[int, ...]:
        return packed_shape(self.words, self.shapes, self.machine)

    def registers(self, width: int) -> RegisterTile:
        return DotProductTile(self.words, TileShape(width, self.shapes.tile.blocks), self.machine)

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
        shapes, lanes, count = self.shapes, self.machine.lanes, self.words.count
        extent: int | tirx.Expr = self.input_steps
        if shapes.inputs % lanes and self.input_blocks > 1:
            left = shapes.inputs - ib * lanes
            extent = tirx.min(self.input_steps, tirx.floordiv(left + count - 1, count))
        (group,) = (segment.group for segment in place.segments)
        image = self.inputs.buffer(self.source.tensor)

        def step(at: tirx.Expr) -> tirx.Stmt:
            def value(t: int) -> tirx.Expr:
                pixel = self.seen(place, begin + t, taps)
                channel = group * shapes.inputs + ib * lanes
                *outer, first = physical(self.source.layout, [place.image, channel, *pixel], self.analyzer)
                return word(self.words, self.machine, image, [*outer, first + at * count], count)

            return registers.add(
                columns,
                value,
                lambda b, lane: load(self.weights, [place.set, place.tile, ib, *taps, at, b, lane]),
            )

        return rolled(extent, step, "word")
