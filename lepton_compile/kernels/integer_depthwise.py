"""Depthwise convolution of bytes: four neighbouring taps of a row are multiplied and added by one instruction.

The lanes are channels, as in the one over float32 (`lepton_compile.kernels.pooling`). Four neighbouring pixels of a
block are one vector of bytes, [pixel][channel]; turned into [channel][pixel], which is one shuffle, it is the left
operand of the instruction that adds four products to each lane. Weights are packed as [channel block][taps...][four
taps of a row][lane and byte], zeros past the last tap. Sums are of the taps inside the input, of the bytes as the
instruction counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels.byte_products import BYTES, add_products, counted, offset
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source
from lepton_compile.kernels.loops import load, sequence, store
from lepton_compile.kernels.pooling import DEPTHWISE, Emitter, Place
from lepton_compile.kernels.window import Tiles, Window, over_row


def pack_weights(weights: npt.NDArray[np.int8], lanes: int) -> npt.NDArray[np.int8]:
    """Pack weights of shape (channels, 1, taps...), zeros past the last channel and tap."""
    channels, _, *outer, taps = weights.shape
    blocks, quads = -(-channels // lanes), -(-taps // BYTES)
    padded = np.zeros((blocks * lanes, *outer, quads * BYTES), np.int8)
    padded[:channels, ..., :taps] = weights[:, 0]
    split = padded.reshape(blocks, lanes, *outer, quads, BYTES)
    return np.ascontiguousarray(np.moveaxis(split, 1, -2)).reshape(blocks, *outer, quads, lanes * BYTES)


def integer_depthwise(windows: Sequence[Window], source: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A kernel that slides a window over every channel of bytes.

    Args:
        windows: One per spatial axis; the last one's taps are neighbours.
        source: The input (batch, channels, spatial...), uint8 or int8, blocked by the machine's lanes.
        epilogue: What is stored, of int32 sums, in the same layout.
        machine: The instruction set.

    Returns:
        A kernel of the input, the packed weights, the epilogue's sources and the output.
    """
    return _Emitter(DEPTHWISE, tuple(windows), source.tensor, source, epilogue, machine, None).definition()


class _Emitter(Emitter):
    """The same loops over four taps at a time."""

    accumulates = "int32"

    @property
    def family(self) -> str:
        return "integer depthwise"

    def packed(self) -> te.Tensor:
        *outer, last = (window.kernel for window in self.windows)
        self.quads = -(-last // BYTES)
        shape = (self.channel_blocks, *outer, self.quads, self.lanes * BYTES)
        return te.placeholder(shape, "int8", name="weights")

    def tiles(self, width: int, tile: Callable[[tirx.Expr | int, Tiles], tirx.Stmt]) -> tirx.Stmt:
        # Vectors are read as far as the last four taps reach.
        return over_row(replace(self.windows[-1], kernel=self.quads * BYTES), width, tile)

    def row_of_taps(
        self,
        place: Place,
        begin: tirx.Expr | int,
        tiles: Tiles,
        totals: Sequence[tirx.Buffer],
        taps: list[tirx.Expr | int],
    ) -> tirx.Stmt:
        window = self.windows[-1]
        cells = []
        for t, total in enumerate(totals):
            for quad in range(self.quads):
                first = window.first(begin + t) + quad * BYTES
                inside = [True] * BYTES
                if tiles.border:
                    assert isinstance(begin, int)
                    inside = [window.inside(begin + t, quad * BYTES + tap) for tap in range(BYTES)]
                    inside = [seen and quad * BYTES + tap < window.kernel for tap, seen in enumerate(inside)]
                if any(inside):
                    cells.append(self.add_quad(place, total, [*taps, quad], first, inside))
        return sequence(cells)

    def add_quad(
        self,
        place: Place,
        total: tirx.Buffer,
        taps: Sequence[tirx.Expr | int],
        first: tirx.Expr | int,
        inside: Sequence[bool],
    ) -> tirx.Stmt:
        """Add the products of four taps, the first of which sees the pixel `first` of the innermost axis."""
        lanes, instruction = self.lanes, self.machine.dot_products
        outer = [
            window.first(p) + tap * window.dilation
            for window, p, tap in zip(self.windows[:-1], place.outer, taps, strict=False)
        ]
        image, dtype = self.inputs.buffer(self.source), str(self.source.dtype)

        def pixels(at: tirx.Expr | int, count: int) -> tirx.Expr:
            return load(image, [place.image, place.block, *outer, at, tirx.Ramp(0, 1, count * lanes)])

        if all(inside):
            vectors = [pixels(first, BYTES)]
        else:
            nothing = tirx.Broadcast(tirx.const(-offset(instruction, dtype) & 255, "uint8"), lanes)
            outside = nothing if dtype == "uint8" else tirx.reinterpret(f"int8x{lanes}", nothing)
            vectors = [pixels(first + tap, 1) if seen else outside for tap, seen in enumerate(inside)]
        shuffled = tirx.reinterpret(f"uint8x{lanes * BYTES}", _turned(vectors, lanes))
        vector = tirx.Ramp(0, 1, lanes)
        weights = load(self.weights, [place.block, *taps, tirx.Ramp(0, 1, lanes * BYTES)])
        left = counted(instruction, shuffled, dtype)
        return store(total, [vector], add_products(instruction, lanes, load(total, [vector]), left, weights))


def _turned(vectors: Sequence[tirx.Expr], lanes: int) -> tirx.Expr:
    """Vectors that are [pixel][channel] together, as [channel][pixel].

    In two steps: words of four channels first, then bytes within 16, which x86-64 has an instruction for each of. LLVM
    makes one of them where the processor has it, and more than two of the whole where it has not.
    """
    total = lanes * BYTES
    words = [tap * (lanes // BYTES) + word for word in range(lanes // BYTES) for tap in range(BYTES)]
    joined = vectors[0] if len(vectors) == 1 else tirx.Shuffle(list(vectors), list(range(total)))
    grouped = tirx.Shuffle([tirx.reinterpret(f"int32x{lanes}", joined)], words)
    within = [start + tap * BYTES + lane for start in range(0, total, 16) for lane in range(BYTES) for tap in range(4)]
    return tirx.Shuffle([tirx.reinterpret(f"int8x{total}", grouped)], within)
