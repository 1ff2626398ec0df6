"""Convolution by minimal filtering: shapes, transformed weights, and the ways to cut it; `winograd.py` has the kernels.

Weights are several times larger than those of the direct convolution, and read once for every chunk of tiles; the
transformed input is larger than the input. Two plans divide this memory traffic differently:
- fused: a chunk of tiles is taken through all stages, everything but the weights staying in the level-2 cache; the
  weights are read again for every chunk. For large maps of few channels.
- staged: the input is transformed by a kernel of its own; then each tile of output channels reads its weights once. For
  small maps of many channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.register_tile import MULTIPLIERS, STREAM_BYTES, TileShape, step_cycles
from lepton_compile.kernels.toom_cook import PAIRS, Filter, Row, minimal_filter
from lepton_compile.kernels.window import Window

# Outputs of a transform along an axis. Six would save a tenth more on large maps, for weights twice as large and errors
# four times as large.
TILE_OUTPUTS = (2, 4)
# Chunks of tiles whose data stay in this share of the level-2 cache, beside the weights that stream through it.
CACHE_SHARE = 0.6
# Cycles of loading or storing a vector, in operations.
MOVE_CYCLES = 1.5
# What the local buffers of a kernel may take of a thread's stack.
LOCAL_BYTES = 900_000


@dataclass(frozen=True)
class Winograd:
    """The shapes of a convolution by minimal filtering, and how it is cut.

    Attributes:
        batch: Images.
        inputs: Input channels of one group.
        outputs: Output channels of one group.
        groups: Groups; more than one only if both of these fill whole vectors.
        windows: One per spatial axis, of stride and dilation 1.
        filters: The transform of each spatial axis.
        tile: The register tile of the products: its columns are tiles of the output.
        chunk: Output tiles that go through together; a multiple of the register tile's columns.
        staged: Whether the input is transformed by a kernel of its own.
    """

    batch: int
    inputs: int
    outputs: int
    groups: int
    windows: tuple[Window, ...]
    filters: tuple[Filter, ...]
    tile: TileShape
    chunk: int
    staged: bool

    @property
    def points(self) -> int:
        """Products for each tile and pair of channels."""
        return math.prod(transform.points for transform in self.filters)

    @property
    def tiles_per_axis(self) -> tuple[int, ...]:
        """Tiles of one image along each axis, the last one perhaps overhanging."""
        return tuple(
            -(-window.positions // transform.outputs)
            for window, transform in zip(self.windows, self.filters, strict=True)
        )

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.batch * math.prod(self.tiles_per_axis)

    @property
    def chunks(self) -> int:
        """Chunks of tiles."""
        return -(-self.tiles // self.chunk)

    def input_blocks(self, lanes: int) -> int:
        """Vectors of input channels of all groups."""
        return self.groups * -(-self.inputs // lanes)

    def __str__(self) -> str:
        outputs = "x".join(str(transform.outputs) for transform in self.filters)
        plan = "staged" if self.staged else "fused"
        return f"winograd {outputs} {plan}, tile {self.tile.columns}x{self.tile.blocks}, chunks of {self.chunk}"


def packed_shape(shapes: Winograd, machine: Machine) -> tuple[int, ...]:
    """Shape of the transformed weights: [group][tile of blocks][point][input][block in tile][output lane]."""
    tiles = -(-shapes.outputs // (machine.lanes * shapes.tile.blocks))
    return (shapes.groups, tiles, shapes.points, shapes.inputs, shapes.tile.blocks, machine.lanes)


def pack_weights(weights: npt.NDArray[np.float32], shapes: Winograd, machine: Machine) -> npt.NDArray[np.float32]:
    """Transform and pack weights of shape (outputs * groups, inputs, taps...), zeros where a block has no channel."""
    groups, tiles, points, inputs, blocks, lanes = packed_shape(shapes, machine)
    transformed = transform_weights(weights, shapes.filters).reshape(groups, shapes.outputs, inputs, points)
    padded = np.zeros((groups, tiles * blocks * lanes, inputs, points), np.float32)
    padded[:, : shapes.outputs] = transformed
    split = padded.reshape(groups, tiles, blocks, lanes, inputs, points)
    return np.ascontiguousarray(split.transpose(0, 1, 5, 4, 2, 3))


def transform_weights(weights: npt.NDArray[np.float32], filters: Sequence[Filter]) -> npt.NDArray[np.float64]:
    """G g G^T of weights of shape (outputs, inputs, taps...): (outputs, inputs, points...), in double precision."""
    transformed = weights.astype(np.float64)
    for axis, transform in enumerate(filters, 2):
        moved = np.tensordot(transformed, transform.kernel_matrix(), axes=(axis, 1))
        transformed = np.moveaxis(moved, -1, axis)
    return transformed


def transformed_shape(shapes: Winograd, machine: Machine) -> tuple[int, ...]:
    """Shape of the transformed input of a staged convolution: [chunk][point][input block and tile][lane]."""
    return (shapes.chunks, shapes.points, _odd(shapes.input_blocks(machine.lanes) * shapes.chunk), machine.lanes)


def product_rows(shapes: Winograd) -> int:
    """Rows of one point of the products of a chunk of tiles with a tile of output channels."""
    return _odd(shapes.tile.blocks * shapes.chunk)


def _odd(rows: int) -> int:
    """Rows of a point, one more than needed if they are even: else a tile's points fall into one set of the cache."""
    return rows | 1


def plans(
    batch: int, inputs: int, outputs: int, groups: int, windows: Sequence[Window], machine: Machine
) -> Iterator[Winograd]:
    """The ways to compute a convolution by minimal filtering that are worth a look; none where it does not apply.

    It takes strides and dilations of one, at least one axis of several taps, and groups that fill whole vectors.
    """
    if any((w.stride, w.dilation) != (1, 1) for w in windows):
        return
    if groups > 1 and (inputs % machine.lanes or outputs % machine.lanes):
        return
    for filters in itertools.product(*(list(_filters_of(window)) for window in windows)):
        if len({transform.outputs for transform in filters if transform.taps > 1}) != 1:
            continue  # none, or of different sizes
        for staged in (False, True):
            best = min(
                _cuts(batch, inputs, outputs, groups, tuple(windows), filters, machine, staged),
                key=lambda shapes: (cycles(shapes, machine), shapes.chunks, shapes.tile.columns),
                default=None,
            )
            if best is not None and _addressable(best, machine):
                yield best


def _addressable(shapes: Winograd, machine: Machine) -> bool:
    """Kernels count elements in 32 bits."""
    transformed = math.prod(transformed_shape(shapes, machine)) if shapes.staged else 0
    return max(math.prod(packed_shape(shapes, machine)), transformed) < 2**31


def _filters_of(window: Window) -> Iterator[Filter]:
    if window.kernel == 1:
        yield minimal_filter(1, 1)
        return
    for outputs in TILE_OUTPUTS:
        if outputs + window.kernel - 1 in PAIRS and outputs < window.positions + 2:
            yield minimal_filter(outputs, window.kernel)


def _cuts(
    batch: int,
    inputs: int,
    outputs: int,
    groups: int,
    windows: tuple[Window, ...],
    filters: tuple[Filter, ...],
    machine: Machine,
    staged: bool,
) -> Iterator[Winograd]:
    """Register tiles and chunks that fit the registers, the cache and the stack."""
    whole = Winograd(batch, inputs, outputs, groups, windows, filters, TileShape(1, 1), 1, staged)
    output_blocks = -(-outputs // machine.lanes)
    row = machine.lanes * 4 * whole.points
    for blocks in range(1, min(output_blocks, machine.registers // 2) + 1):
        for columns in range(1, min(whole.tiles, (machine.registers - blocks - 1) // blocks) + 1):
            each = row * (blocks + (0 if staged else whole.input_blocks(machine.lanes)))
            fit = min(int(machine.l2_bytes * CACHE_SHARE), LOCAL_BYTES) // each // columns * columns
            if not fit:
                continue
            for count in _even_cuts(whole.tiles, fit, machine.threads if not staged else 1):
                chunk = math.ceil(math.ceil(whole.tiles / count) / columns) * columns
                if chunk <= fit:
                    yield Winograd(
                        batch, inputs, outputs, groups, windows, filters, TileShape(columns, blocks), chunk, staged
                    )


def _even_cuts(tiles: int, fit: int, threads: int) -> Iterator[int]:
    """Numbers of chunks: as few as fit, and a few more; multiples of the threads."""
    fewest = -(-tiles // fit)
    for count in range(fewest, fewest + 2 * threads + 2):
        if count % threads == 0 or count > 4 * threads:
            yield min(count, tiles)


def cycles(shapes: Winograd, machine: Machine) -> float:
    """Predicted cycles of one core: the products, or their weights' way from memory, and the transforms."""
    output_blocks = -(-shapes.outputs // machine.lanes)
    output_tiles = -(-output_blocks // shapes.tile.blocks)
    last = shapes.tiles - (shapes.chunks - 1) * shapes.chunk
    columns = (shapes.chunks - 1) * (shapes.chunk // shapes.tile.columns) + -(-last // shapes.tile.columns)
    each = step_cycles(shapes.tile.columns, shapes.tile.blocks)
    products = shapes.groups * output_tiles * shapes.points * columns * shapes.inputs * each
    weights = math.prod(packed_shape(shapes, machine)) * 4
    # What a loop over chunks reads again, a fused kernel's weights or those of a tile of output channels, it reads from
    # where it fits.
    again = weights // (shapes.groups * output_tiles) if shapes.staged else weights
    streamed = weights * (1 if again < machine.l2_bytes * (1 - CACHE_SHARE) else shapes.chunks)
    inputs = shapes.tiles * shapes.input_blocks(machine.lanes)
    if shapes.staged:
        # V is written, and read by every tile of output channels, from where it fits.
        streamed += shapes.points * inputs * machine.lanes * 4 * (1 + output_tiles) // 2
    transforms = inputs * analysis_cycles(shapes.filters)
    transforms += shapes.tiles * shapes.groups * output_blocks * synthesis_cycles(shapes.filters)
    return max(products, streamed / STREAM_BYTES) + transforms


def analysis_cycles(filters: Sequence[Filter]) -> float:
    """Cycles of transforming what a tile sees of a vector of channels."""
    points = math.prod(transform.points for transform in filters)
    operations = sum(_pair_operations(transform.analysis) * points / transform.points for transform in filters)
    return (operations + MOVE_CYCLES * 2 * points) / MULTIPLIERS


def synthesis_cycles(filters: Sequence[Filter]) -> float:
    """Cycles of transforming a tile of a vector of output channels back."""
    points = left = math.prod(transform.points for transform in filters)
    operations = 0.0
    for transform in filters:
        left //= transform.points
        operations += _pair_operations(transform.synthesis) * left
        left *= transform.outputs
    # The outputs are stored twice: as they are, and through the epilogue.
    return (operations + MOVE_CYCLES * (points + 3 * left)) / MULTIPLIERS


def _pair_operations(matrix: Sequence[Row]) -> float:
    """Multiply-adds of a product with a transform's matrix, in which the points of a pair share half of their work."""
    return sum(bool(value) for row in matrix for value in row) / 2
