"""Sums of products of bytes: a step of the reduction multiplies four neighbouring unsigned bytes by four signed ones.

The instructions are those of `lepton_compile.kernels.byte_products`. Weights of a step are stored as
[block][output lane * 4 + byte].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tvm import tirx

from lepton_compile.kernels.byte_products import BYTES, add_products, counted
from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.loops import load, sequence, store
from lepton_compile.kernels.register_tile import RegisterTile, TileShape

LARGEST_SUM = 2**31 // (255 * 128)
"""Products of bytes that can be added in 32 bits."""


class DotProductTile(RegisterTile):
    """The accumulators, int32, of one tile of sums of products of bytes."""

    def __init__(self, shape: TileShape, machine: Machine) -> None:
        super().__init__(shape, machine, "int32")
        self._instruction = machine.dot_products

    def add(
        self,
        columns: Sequence[int],
        value: Callable[[int], tirx.Expr],
        weight: Callable[[int, tirx.Expr], tirx.Expr],
    ) -> tirx.Stmt:
        """One step of the reduction for some of the columns.

        Args:
            columns: Which columns take part.
            value: From the column to its four unsigned bytes, as an int32.
            weight: From the block and the positions in it, a vector of them, to signed bytes.
        """
        cells = [(b, t) for t in columns for b in range(self.shape.blocks)]
        return sequence(self._add(self._accumulators[b][t], value(t), functools.partial(weight, b)) for b, t in cells)

    def _add(self, accumulator: tirx.Buffer, word: tirx.Expr, weight: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
        lanes = self._lanes
        vector = tirx.Ramp(0, 1, lanes)
        total = add_products(
            self._instruction,
            lanes,
            load(accumulator, [vector]),
            tirx.reinterpret(f"uint8x{lanes * BYTES}", tirx.Broadcast(word, lanes)),
            weight(tirx.Ramp(0, 1, lanes * BYTES)),
        )
        return store(accumulator, [vector], total)


def word(machine: Machine, buffer: tirx.Buffer, indices: Sequence[tirx.Expr], count: int = BYTES) -> tirx.Expr:
    """Four bytes from a place on, as an int32, as the machine's instruction counts them.

    Args:
        machine: The instruction set.
        buffer: The bytes.
        indices: The place of the first.
        count: How many of them may be read; for the others, whatever stands there, the weights are zero.
    """
    *outer, first = indices
    if count == BYTES:
        four = tirx.reinterpret("int32", load(buffer, [*outer, tirx.Ramp(first, 1, BYTES)]))
    else:
        single = [load(buffer, [*outer, first + byte]).astype("uint8").astype("int32") for byte in range(count)]
        four = functools.reduce(
            tirx.bitwise_or,
            (tirx.shift_left(value, tirx.const(8 * byte, "int32")) for byte, value in enumerate(single)),
        )
    return counted(machine.dot_products, four, str(buffer.dtype))
