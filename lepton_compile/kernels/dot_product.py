"""Sums of products of bytes: a step of the reduction multiplies four neighbouring unsigned bytes by four signed ones.

That is an instruction on processors with VNNI (x86-64: vpdpbusd, "Intel 64 and IA-32 Architectures Software Developer's
Manual" 2C). Weights of a step are stored as [block][output lane * 4 + byte].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tvm import tirx

from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.loops import load, sequence, store
from lepton_compile.kernels.register_tile import RegisterTile, TileShape

BYTES = 4
"""Bytes of a step."""

SIGN = 128
"""What a signed byte counts for more than it is."""

LARGEST_SUM = 2**31 // (255 * 128)
"""Products of bytes that can be added in 32 bits."""

_INSTRUCTIONS = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}


class DotProductTile(RegisterTile):
    """The accumulators, int32, of one tile of sums of products of bytes."""

    def __init__(self, shape: TileShape, machine: Machine) -> None:
        super().__init__(shape, machine, "int32")

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
        total = tirx.call_llvm_pure_intrin(
            f"int32x{lanes}",
            _INSTRUCTIONS[lanes],
            load(accumulator, [vector]),
            tirx.reinterpret(f"uint8x{lanes * BYTES}", tirx.Broadcast(word, lanes)),
            weight(tirx.Ramp(0, 1, lanes * BYTES)),
        )
        return store(accumulator, [vector], total)


def word(buffer: tirx.Buffer, indices: Sequence[tirx.Expr], count: int = BYTES) -> tirx.Expr:
    """Four bytes from a place on, as an int32; to signed ones `SIGN` is added, which makes them unsigned.

    Args:
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
    return four if str(buffer.dtype) == "uint8" else tirx.bitwise_xor(four, tirx.const(-0x7F7F7F80, "int32"))
