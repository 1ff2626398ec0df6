"""Shapes of direct convolutions: how their loops are cut, how weights are packed, what they are predicted to cost.

Weights are packed as [set][tile of blocks][input block][kernel...][input lane][block in tile][output lane], in the
order in which the innermost loops read them; densely packed, where they are to be small, as [set][input][kernel...]
[output], whose vectors end in the next row's weights: they make lanes that nobody reads. Convolutions with a 1x1 kernel
and no stride are matrix products over all pixels at once.

Where a vector has lanes for the channels of several output positions, it can be for as many, side by side: their window
is as wide as theirs together, and each has zeros for the taps that are not its own. So a kernel of 5 taps takes 6 steps
for two positions, instead of 5 for each.

A set is a group, if groups are whole blocks of output channels. If not, all channels are one set, and a block is
computed in one go even where it has channels of several groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels.channel_groups import ChannelGroups
from lepton_compile.kernels.kernel import Machine, filled, imbalance
from lepton_compile.kernels.layout import dense_rows, dense_size
from lepton_compile.kernels.register_tile import LOAD_PORTS, STREAM_BYTES, TileShape, rank_tiles, step_cycles
from lepton_compile.kernels.window import ConvolutionShape, Window, inner_tiles

Index = TypeVar("Index")
Number = TypeVar("Number", bound=np.generic)

# How many times longer than the fastest a convolution may be predicted to take where code is to be small.
SMALL_SLOWDOWN = 1.5
# About what a tile takes in code besides its vectors, what each of these takes, and what a block takes in the epilogue,
# in bytes on AVX-512.
TILE_BYTES, VECTOR_BYTES, EPILOGUE_BYTES = 150, 25, 60


@dataclass(frozen=True)
class Convolution(ConvolutionShape):
    """A convolution, its windows in the order of the loops, the innermost last, and how it is cut.

    Attributes:
        order: Which of the tensor's spatial axes each window is for.
        tile: The register tile.
        mixed: Whether groups begin inside blocks of output channels.
        dense: Whether weights are packed without padding.
        abreast: How many neighbouring output positions share a vector, each with as many lanes.
    """

    order: tuple[int, ...]
    tile: TileShape
    mixed: bool = False
    dense: bool = False
    abreast: int = 1

    @cached_property
    def walked(self) -> tuple[Window, ...]:
        """The windows of what is computed together."""
        *outer, last = self.windows
        return (*outer, last.of_neighbours(self.abreast))

    @property
    def flat(self) -> bool:
        """Whether it is a matrix product over the pixels."""
        return all(window.is_identity() for window in self.windows)

    def spatial(self, indices: Sequence[Index]) -> list[Index]:
        """Indices in the order of the loops, put into the order of the tensor's axes."""
        return [indices[self.order.index(axis)] for axis in range(len(self.order))]

    @property
    def sets(self) -> int:
        """Runs of output channels that begin at a block."""
        return 1 if self.mixed else self.groups

    @property
    def set_outputs(self) -> int:
        """Output channels of a set."""
        return self.outputs * self.groups // self.sets

    @property
    def pixels(self) -> int:
        """Output positions of one channel."""
        return math.prod(window.positions for window in self.windows)

    def __str__(self) -> str:
        together = f", {self.abreast} pixels in a vector" if self.abreast > 1 else ""
        return f"direct, tile {self.tile.columns}x{self.tile.blocks}{together}"


def convolution_of(shape: ConvolutionShape, machine: Machine, *, dense: bool = False) -> Convolution:
    """Choose the order of the loops and the register tile of a convolution."""
    return next(convolutions_of(shape, machine, dense=dense))


def convolutions_of(
    shape: ConvolutionShape, machine: Machine, *, dense: bool = False, abreast: int = 1
) -> Iterator[Convolution]:
    """The same with every register tile, the most promising first; where code is to be small, the smallest.

    `abreast` is one of `ways_abreast`.
    """
    order = _loop_order(shape.windows)
    loops = tuple(shape.windows[axis] for axis in order)
    flat = all(window.is_identity() for window in loops)
    columns = math.prod(window.positions for window in loops) if flat else -(-loops[-1].positions // abreast)
    mixed = shape.groups > 1 and shape.outputs % machine.lanes > 0
    # Where groups are mixed a tile is one block. Two could share loads of the inputs of two groups, but that was slower
    # (measured in whole nets): there are more ways for groups to lie in them, and registers run out.
    ranked = rank_tiles(columns, 1 if mixed else -(-shape.outputs // machine.lanes), machine)
    facts = (shape.batch, shape.inputs, shape.outputs, shape.groups, loops, tuple(order))
    plans = (Convolution(*facts, tile, mixed, dense, abreast) for tile in ranked)
    yield from _smallest_first(list(plans), machine) if machine.small else plans


def ways_abreast(shape: ConvolutionShape, machine: Machine) -> list[int]:
    """How many neighbouring output positions may share a vector, fewer steps being taken so.

    They are summed up with zeros times their neighbours' inputs, so that an infinity or NaN spreads to these.
    """
    last = shape.windows[_loop_order(shape.windows)[-1]]
    if shape.groups > 1 or last.kernel == 1 or last.dilation > 1:
        return [1]
    most = min(machine.lanes // shape.outputs, last.positions)
    return [1 << power for power in range(max(1, most.bit_length()))]


def _loop_order(windows: Sequence[Window]) -> list[int]:
    """The axes from the outermost loop to the innermost, which tiles run along.

    An axis of one position goes outside (a signal as an image of width 1).
    """
    return sorted(range(len(windows)), key=lambda axis: windows[axis].positions > 1)


def _smallest_first(plans: Sequence[Convolution], machine: Machine) -> list[Convolution]:
    """Those that are not much slower than the fastest, by the size of their code."""
    slowest = SMALL_SLOWDOWN * min(cycles(plan, machine) for plan in plans)
    fast = [plan for plan in plans if cycles(plan, machine) <= slowest]
    return sorted(fast, key=lambda plan: (_code_bytes(plan), cycles(plan, machine)))


def _code_bytes(shapes: Convolution) -> int:
    """About how large the code of a convolution is: that of each tile that is cut differently, and one epilogue."""
    columns, blocks = shapes.tile.columns, shapes.tile.blocks
    if shapes.flat:
        full, tail = divmod(shapes.pixels, columns)
        cut = [width for width in (columns if full else 0, tail) if width]
    else:
        inner = inner_tiles(shapes.walked[-1], columns)
        others = shapes.walked[-1].positions - inner.count * columns
        cut = [width for width, count in ((columns, inner.count), (1, others)) if count]
    return TILE_BYTES * len(cut) + VECTOR_BYTES * sum(cut) * blocks + EPILOGUE_BYTES * blocks


def packed_shape(shapes: Convolution, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights, were they not dense."""
    lanes = machine.lanes
    blocks = -(-shapes.set_outputs // lanes)
    return (
        shapes.sets,
        -(-blocks // shapes.tile.blocks),
        -(-shapes.inputs // lanes),
        *(window.kernel for window in shapes.walked),
        min(lanes, shapes.inputs),
        shapes.tile.blocks,
        lanes,
    )


def pack_weights(weights: npt.NDArray[Number], shapes: Convolution, machine: Machine) -> npt.NDArray[Number]:
    """Pack weights of shape (outputs * groups, inputs, kernel...), zeros where a block has no channel."""
    sets, tiles, input_blocks, *kernel, input_lanes, blocks, lanes = packed_shape(shapes, machine)
    weights = _side_by_side(weights.transpose(0, 1, *(axis + 2 for axis in shapes.order)), shapes, machine)
    outputs = len(weights) // sets
    if shapes.dense:
        rows = np.moveaxis(weights.reshape(sets, outputs, shapes.inputs, *kernel), 1, -1)
        return dense_rows(rows, tiles * blocks * lanes)
    padded = np.zeros((sets, tiles * blocks * lanes, input_blocks * input_lanes, *kernel), dtype=weights.dtype)
    padded[:, :outputs, : shapes.inputs] = weights.reshape(sets, outputs, shapes.inputs, *kernel)
    split = padded.reshape(sets, tiles, blocks, lanes, input_blocks, input_lanes, *kernel)
    axes = range(6, 6 + len(kernel))
    return np.ascontiguousarray(split.transpose(0, 1, 4, *axes, 5, 2, 3))


def _side_by_side(weights: npt.NDArray[Number], shapes: Convolution, machine: Machine) -> npt.NDArray[Number]:
    """Weights of neighbouring positions below each other, zeros for the taps that are not their own."""
    if shapes.abreast == 1:
        return weights
    outputs, *others, kernel = weights.shape
    window = shapes.windows[-1]
    wide = np.zeros((shapes.abreast, machine.lanes // shapes.abreast, *others, shapes.walked[-1].kernel), weights.dtype)
    for neighbour in range(shapes.abreast):
        first = neighbour * window.stride
        wide[neighbour, :outputs, ..., first : first + kernel] = weights
    return wide.reshape(machine.lanes, *others, -1)


def dense_shape(shapes: Convolution, machine: Machine) -> tuple[int]:
    """Shape of densely packed weights."""
    sets, tiles, _, *kernel, _, blocks, lanes = packed_shape(shapes, machine)
    return (dense_size(sets * shapes.inputs * math.prod(kernel), shapes.set_outputs, tiles * blocks * lanes),)


def packed_weights(weights: te.Tensor, shapes: Convolution, machine: Machine) -> te.Tensor:
    """The packing of `pack_weights` as a computation, for weights that are known only at run time."""
    lanes, blocks, outputs = machine.lanes, shapes.tile.blocks, shapes.set_outputs

    def element(*at: tirx.Expr) -> tirx.Expr:
        of, tile, ib, *taps, ii, block, lane = at
        output, channel = (tile * blocks + block) * lanes + lane, ib * lanes + ii
        inside = tirx.all(output < outputs, channel < shapes.inputs)
        value = weights(of * outputs + output, channel, *shapes.spatial(taps))
        return tirx.if_then_else(inside, value, tirx.const(0, str(weights.dtype)))

    return te.compute(packed_shape(shapes, machine), element, name="packed")


def cycles(shapes: Convolution, machine: Machine) -> float:
    """Predicted cycles of one core: the steps of all tiles, or the weights' way from memory."""
    columns = shapes.tile.columns
    if shapes.flat:
        taps, seen, length = 1, 1, shapes.pixels
    else:
        *outer, last = shapes.walked
        seen = math.prod(sum(window.seen(p) for p in range(window.positions)) for window in outer)
        taps, length = last.kernel, last.positions
    packed = packed_shape(shapes, machine)
    steps = shapes.batch * shapes.sets * seen * taps * shapes.inputs * _step_cycles(shapes, length, machine)
    rows = -(-shapes.pixels // columns) if shapes.flat else math.prod(w.positions for w in shapes.windows[:-1])
    blocks = shapes.batch * shapes.sets * packed[1] * rows
    return max(steps, math.prod(packed) * 4 / STREAM_BYTES) * imbalance(blocks, machine)


def filled_lanes(shapes: Convolution, machine: Machine) -> float:
    """What share of all lanes and steps is of the products that are asked for."""
    taps, walked = shapes.windows[-1].kernel, shapes.walked[-1].kernel
    return filled(shapes.set_outputs, machine) * shapes.abreast * taps / walked


def channel_groups(shapes: Convolution, machine: Machine) -> ChannelGroups | None:
    """How groups lie in the blocks of output channels; None if each begins at a block."""
    if not shapes.mixed:
        return None
    return ChannelGroups(shapes.outputs, shapes.groups, machine.lanes)


def _step_cycles(shapes: Convolution, length: int, machine: Machine) -> float:
    """Cycles of one step of the reduction, of all tiles of a set, along an innermost axis of this length."""
    columns, blocks = shapes.tile.columns, shapes.tile.blocks
    full, tail = divmod(length, columns)
    tiles = ((columns, full), (tail, 1)) if tail else ((columns, full),)
    groups = channel_groups(shapes, machine)
    counts = groups.counts() if groups else [1] * packed_shape(shapes, machine)[1]
    return sum(
        times * max(step_cycles(width, blocks), (count * width + blocks) / LOAD_PORTS)
        for width, times in tiles
        for count in counts
    )
