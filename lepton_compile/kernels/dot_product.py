"""Sums of products of short numbers: a step of the reduction multiplies all that a word of 32 bits holds, and adds.

Four bytes by four signed ones is an instruction of several processors (`lepton_compile.kernels.byte_products`), two
bfloat16 numbers by two on x86-64 with AVX512_BF16 (vdpbf16ps; "Intel 64 and IA-32 Architectures Software Developer's
Manual" 2C). Sums of bytes are exact. Products of bfloat16 numbers are exact too, and their sums, in float32, are
rounded to nearest with ties to even; denormal numbers count as zero, and so do denormal sums.

Weights of a step are stored as [block][output lane], a word for each lane.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels.byte_products import add_products, counted
from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.loops import load, sequence, store
from lepton_compile.kernels.register_tile import RegisterTile, TileShape

LARGEST_SUM = 2**31 // (255 * 128)
"""Products of bytes that can be added in 32 bits."""

_PAIRS_INSTRUCTION = {16: "llvm.x86.avx512bf16.dpbf16ps.512", 8: "llvm.x86.avx512bf16.dpbf16ps.256"}
_PAIRS_FUNCTION = "lepton_add_products_of_pairs"
# TVM has no vectors of bfloat16; LLVM's instruction takes no others.
_PAIRS_DEFINITION = """
declare <{lanes} x float> @{instruction}(<{lanes} x float>, <{halves} x bfloat>, <{halves} x bfloat>)

define <{lanes} x float> @{function}(<{lanes} x float> %sums, <{lanes} x i32> %a, <{lanes} x i32> %b) {{
  %left = bitcast <{lanes} x i32> %a to <{halves} x bfloat>
  %right = bitcast <{lanes} x i32> %b to <{halves} x bfloat>
  %total = call <{lanes} x float> @{instruction}(
    <{lanes} x float> %sums, <{halves} x bfloat> %left, <{halves} x bfloat> %right)
  ret <{lanes} x float> %total
}}
"""


@dataclass(frozen=True)
class Words:
    """What words hold.

    Attributes:
        name: What numbers are called in the names of kernel families.
        count: How many there are in a word.
        sums: The type that products are summed in.
    """

    name: str
    count: int
    sums: str

    def definitions(self, machine: Machine) -> str:
        """LLVM functions that `add` calls, for `lepton_compile.kernels.loops.function`."""
        if self is BYTES:
            return ""
        lanes = machine.lanes
        return _PAIRS_DEFINITION.format(
            lanes=lanes, halves=2 * lanes, instruction=_PAIRS_INSTRUCTION[lanes], function=_PAIRS_FUNCTION
        )

    def add(self, machine: Machine, sums: tirx.Expr, word: tirx.Expr, weights: tirx.Expr) -> tirx.Expr:
        """Sums with the products of a word and the weights of each lane added."""
        lanes = machine.lanes
        spread = tirx.Broadcast(word, lanes)
        if self is not BYTES:
            return tirx.call_pure_extern(f"{self.sums}x{lanes}", _PAIRS_FUNCTION, sums, spread, weights)
        unsigned, signed = (f"{sign}int8x{lanes * self.count}" for sign in ("u", ""))
        left, right = tirx.reinterpret(unsigned, spread), tirx.reinterpret(signed, weights)
        return add_products(machine.dot_products, lanes, sums, left, right)

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Weights of shape (..., inputs, blocks, lanes) as words, (..., steps, blocks, lanes); zeros past the last.

        Args:
            weights: Signed bytes, or the bits of bfloat16 numbers.
        """
        *outer, inputs, blocks, lanes = weights.shape
        grown = np.pad(weights, [*[(0, 0)] * len(outer), (0, -inputs % self.count), (0, 0), (0, 0)])
        split = np.moveaxis(grown.reshape(*outer, -1, self.count, blocks, lanes), -3, -1)
        return np.ascontiguousarray(split).view(np.int32)[..., 0]


BYTES = Words("integer", 4, "int32")
"""Bytes, as the machine's instruction counts them, times signed ones."""

PAIRS = Words("bfloat16", 2, "float32")
"""Pairs of bfloat16 numbers."""


class DotProductTile(RegisterTile):
    """The accumulators of one tile of sums of products of words."""

    def __init__(self, words: Words, shape: TileShape, machine: Machine) -> None:
        super().__init__(shape, machine, words.sums)
        self._words, self._machine = words, machine

    def add(
        self,
        columns: Sequence[int],
        value: Callable[[int], tirx.Expr],
        weight: Callable[[int, tirx.Expr], tirx.Expr],
    ) -> tirx.Stmt:
        """One step of the reduction for some of the columns.

        Args:
            columns: Which columns take part.
            value: From the column to its word, an int32.
            weight: From the block and the lanes, a vector of them, to their words.
        """
        lanes = tirx.Ramp(0, 1, self._lanes)

        def cell(b: int, t: int) -> tirx.Stmt:
            sums = self._accumulators[b][t]
            total = self._words.add(self._machine, load(sums, [lanes]), value(t), weight(b, lanes))
            return store(sums, [lanes], total)

        return sequence(cell(b, t) for t in columns for b in range(self.shape.blocks))


def word(words: Words, machine: Machine, buffer: tirx.Buffer, indices: Sequence[tirx.Expr], count: int) -> tirx.Expr:
    """What stands from a place on, as an int32; bytes as the machine's instruction counts them.

    Args:
        words: What the word holds.
        machine: The instruction set.
        buffer: The numbers.
        indices: The place of the first.
        count: How many of them may be read; for the others, whatever stands there, the weights are zero.
    """
    *outer, first = indices
    if count == words.count:
        whole = tirx.reinterpret("int32", load(buffer, [*outer, tirx.Ramp(first, 1, count)]))
    else:
        bits = 32 // words.count
        single = [
            tirx.reinterpret(f"uint{bits}", load(buffer, [*outer, first + place])).astype("int32")
            for place in range(count)
        ]
        whole = functools.reduce(
            tirx.bitwise_or,
            (tirx.shift_left(value, tirx.const(bits * place, "int32")) for place, value in enumerate(single)),
        )
    return counted(machine.dot_products, whole, str(buffer.dtype)) if words is BYTES else whole
