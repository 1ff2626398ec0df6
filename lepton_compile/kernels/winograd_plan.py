"""Convolution by minimal filtering: shapes, transformed weights, and the ways to cut it; `winograd.py` has the kernels.

Weights are several times larger than those of the direct convolution, and read once for every chunk of tiles; the
transformed input is larger than the input. Two plans divide this memory traffic differently:
- fused: a chunk of tiles is taken through all stages, everything but the weights staying in the level-2 cache; the
  weights are read again for every chunk. For large maps of few channels.
- staged: the input is transformed by a kernel of its own; then each tile of output channels reads its weights once. For
  small maps of many channels.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.kernels.kernel import Machine, imbalance
from lepton_compile.kernels.register_tile import L2_BYTES, MULTIPLIERS, STREAM_BYTES, TileShape, step_cycles
from lepton_compile.kernels.toom_cook import PAIRS, Filter, minimal_filter
from lepton_compile.kernels.window import ConvolutionShape, Window

# Outputs of a transform along an axis. Six of three taps would save a tenth more on large maps, for weights twice as
# large and errors four times as large.
MOST_OUTPUTS = 5
# Chunks of tiles whose data stay in this share of the level-2 cache, beside the weights that stream through it.
CACHE_SHARE = 0.6
# Cycles of loading or storing a vector, in operations.
MOVE_CYCLES = 1.5
# Tiles and output channels, and input channels, on which the error is estimated.
SAMPLED = 16
SAMPLED_INPUTS = 128
# What the local buffers of a kernel may take of a thread's stack. Besides those that hold a chunk there are those of
# the transforms' values, in rows of all points: each block's synthesis, and two analyses, inside and at the border.
LOCAL_BYTES = 900_000
SYNTHESIS_SLOTS = 6
ANALYSIS_SLOTS = 16


@dataclass(frozen=True)
class Winograd:
    """A convolution by minimal filtering, and how it is cut.

    A stride of s along an axis makes s convolutions of stride one of it, whose results are added: one for each residue
    of the input's position by s, with every s-th tap. They are taken as further input channels, `phases` of each.

    Attributes:
        shape: The convolution, of dilation 1; several groups only if their channels fill whole vectors.
        filters: The transform of each spatial axis.
        tile: The register tile of the products: its columns are tiles of the output.
        chunk: Output tiles that go through together; a multiple of the register tile's columns.
        staged: Whether the input is transformed by a kernel of its own.
    """

    shape: ConvolutionShape
    filters: tuple[Filter, ...]
    tile: TileShape
    chunk: int
    staged: bool

    @property
    def points(self) -> int:
        """Products for each tile and pair of channels."""
        return math.prod(transform.points for transform in self.filters)

    @property
    def phases(self) -> int:
        """Convolutions of stride one that are added."""
        return math.prod(window.stride for window in self.shape.windows)

    @property
    def tiles_per_axis(self) -> tuple[int, ...]:
        """Tiles of one image along each axis, the last one perhaps overhanging."""
        return tuple(
            -(-window.positions // transform.outputs)
            for window, transform in zip(self.shape.windows, self.filters, strict=True)
        )

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.shape.batch * math.prod(self.tiles_per_axis)

    @property
    def chunks(self) -> int:
        """Chunks of tiles."""
        return -(-self.tiles // self.chunk)

    def input_blocks(self, lanes: int) -> int:
        """Vectors of input channels: of all groups and phases."""
        return self.shape.groups * self.phases * -(-self.shape.inputs // lanes)

    def output_tiles(self, lanes: int) -> int:
        """Tiles of blocks of output channels in a group."""
        return -(-self.shape.outputs // (lanes * self.tile.blocks))

    def __str__(self) -> str:
        outputs = "x".join(str(transform.outputs) for transform in self.filters)
        plan = "staged" if self.staged else "fused"
        return f"winograd {outputs} {plan}, tile {self.tile.columns}x{self.tile.blocks}, chunks of {self.chunk}"


def packed_shape(plan: Winograd, machine: Machine) -> tuple[int, ...]:
    """Shape of the transformed weights: [group][tile of blocks][point][phase and input][block in tile][output lane]."""
    inputs = plan.phases * plan.shape.inputs
    tiles = plan.output_tiles(machine.lanes)
    return (plan.shape.groups, tiles, plan.points, inputs, plan.tile.blocks, machine.lanes)


def pack_weights(weights: npt.NDArray[np.float32], plan: Winograd, machine: Machine) -> npt.NDArray[np.float32]:
    """Transform and pack weights of shape (outputs * groups, inputs, taps...), zeros where a block has no channel."""
    packed = np.zeros(packed_shape(plan, machine), np.float32)
    groups, tiles, points, inputs, blocks, lanes = packed.shape
    by_channel = packed.reshape(groups, tiles, points, inputs, blocks * lanes)
    by_group = weights.reshape(groups, plan.shape.outputs, *weights.shape[1:])
    strides = [window.stride for window in plan.shape.windows]
    # Tile by tile: the double-precision values of a whole layer would be hundreds of megabytes, several times over.
    for group, tile in np.ndindex(groups, tiles):
        part = by_group[group, tile * blocks * lanes : (tile + 1) * blocks * lanes]
        transformed = transform_weights(split_phases(part, strides), plan.filters).reshape(len(part), inputs, points)
        by_channel[group, tile, ..., : len(part)] = transformed.transpose(2, 1, 0)
    return packed


def split_phases(weights: npt.NDArray[np.float32], strides: Sequence[int]) -> npt.NDArray[np.float32]:
    """Every s-th tap as an input channel of its own: (outputs, phases * inputs, taps...), zeros past the last tap."""
    outputs, inputs, *kernel = weights.shape
    taps = [-(-k // stride) for k, stride in zip(kernel, strides, strict=True)]
    grown = [(0, t * stride - k) for t, stride, k in zip(taps, strides, kernel, strict=True)]
    padded = np.pad(weights, [(0, 0), (0, 0), *grown])
    split = padded.reshape(outputs, inputs, *(size for pair in zip(taps, strides, strict=True) for size in pair))
    rank = len(kernel)
    axes = [0, *(3 + 2 * axis for axis in range(rank)), 1, *(2 + 2 * axis for axis in range(rank))]
    return split.transpose(axes).reshape(outputs, math.prod(strides) * inputs, *taps)


def transform_weights(weights: npt.NDArray[np.float32], filters: Sequence[Filter]) -> npt.NDArray[np.float64]:
    """G g G^T of weights of shape (outputs, inputs, taps...): (outputs, inputs, points...), in double precision."""
    return _along_axes([transform.kernel_matrix() for transform in filters], weights.astype(np.float64))


def expected_error(weights: npt.NDArray[np.float32], plan: Winograd) -> float:
    """Relative error (2-norm) in float32 with these weights, on a sample of normally distributed inputs.

    Args:
        weights: (outputs, inputs, taps...), as `pack_weights` takes them.
        plan: How they are used.
    """
    strides = [window.stride for window in plan.shape.windows]
    sample = split_phases(weights[:SAMPLED, :SAMPLED_INPUTS], strides)
    extents = [transform.points for transform in plan.filters]
    inputs = np.random.default_rng(0).standard_normal((SAMPLED, sample.shape[1], *extents), dtype=np.float32)

    def computed(dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
        analysis = [np.array(transform.analysis, dtype) for transform in plan.filters]
        synthesis = [np.array(transform.synthesis, dtype) for transform in plan.filters]
        u = transform_weights(sample, plan.filters).astype(dtype).reshape(*sample.shape[:2], -1)
        v = _along_axes(analysis, inputs.astype(dtype)).reshape(*inputs.shape[:2], -1)
        products = np.zeros((SAMPLED, len(sample), plan.points), dtype)
        for channel in range(sample.shape[1]):
            products += v[:, None, channel] * u[None, :, channel]
        return _along_axes(synthesis, products.reshape(SAMPLED, len(sample), *extents))

    exact = computed(np.float64)
    size = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(computed(np.float32) - exact)) / size if size else 0.0
    return float(f"{error:.1e}")


def _along_axes(matrices: Sequence[npt.NDArray[Any]], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every axis from the third on, multiplied by its matrix.

    Term by term, since the order in which a library for matrix products adds depends on the machine that compiles.
    """
    for axis, matrix in enumerate(matrices, 2):
        columns = np.moveaxis(values, axis, 0)
        rows = [functools.reduce(operator.add, (f * x for f, x in zip(row, columns, strict=True))) for row in matrix]
        values = np.moveaxis(np.stack(rows), 0, axis)
    return values


def transformed_shape(plan: Winograd, machine: Machine) -> tuple[int, ...]:
    """Shape of the transformed input of a staged convolution: [chunk][point][input block and tile][lane]."""
    return (plan.chunks, plan.points, _odd(plan.input_blocks(machine.lanes) * plan.chunk), machine.lanes)


def product_rows(plan: Winograd) -> int:
    """Rows of one point of the products of a chunk of tiles with a tile of output channels."""
    return _odd(plan.tile.blocks * plan.chunk)


def _odd(rows: int) -> int:
    """Rows of a point, one more than needed if they are even: else a tile's points fall into one set of the cache."""
    return rows | 1


@functools.cache
def plans(shape: ConvolutionShape, machine: Machine) -> tuple[Winograd, ...]:
    """The ways to compute a convolution by minimal filtering that are worth a look; none where it does not apply.

    It takes a dilation of one, windows that overlap or touch, an axis of several taps at least, and groups whose
    channels fill whole vectors. Nets repeat their convolutions, and looking for the best cut of one takes a while.
    """
    return tuple(_plans(shape, machine))


def _plans(shape: ConvolutionShape, machine: Machine) -> Iterator[Winograd]:
    if any(window.dilation > 1 or window.kernel < window.stride for window in shape.windows):
        return
    if shape.groups > 1 and (shape.inputs % machine.lanes or shape.outputs % machine.lanes):
        return
    for filters in itertools.product(*(list(_filters_of(window)) for window in shape.windows)):
        if len({transform.points for transform in filters if transform.taps > 1}) != 1:
            continue  # none, or of different precision
        for staged in (False, True):
            best = min(
                _cuts(Winograd(shape, filters, TileShape(1, 1), 1, staged), machine),
                key=lambda plan: (cycles(plan, machine), plan.chunks, plan.tile.columns),
                default=None,
            )
            if best is not None and _addressable(best, machine):
                yield best


def _addressable(plan: Winograd, machine: Machine) -> bool:
    """Kernels count elements in 32 bits."""
    transformed = math.prod(transformed_shape(plan, machine)) if plan.staged else 0
    return max(math.prod(packed_shape(plan, machine)), transformed) < 2**31


def _filters_of(window: Window) -> Iterator[Filter]:
    taps = -(-window.kernel // window.stride)
    if window.kernel == 1:
        yield minimal_filter(1, 1)
    if taps > 1:
        for points in PAIRS:
            outputs = points - taps + 1
            if 2 <= outputs <= min(MOST_OUTPUTS, window.positions + 1):
                yield minimal_filter(outputs, taps)


def _cuts(whole: Winograd, machine: Machine) -> Iterator[Winograd]:
    """Register tiles and chunks that fit the registers, the cache and the stack."""
    row = machine.lanes * 4 * whole.points
    for blocks in range(1, min(whole.output_tiles(machine.lanes), machine.registers // 2) + 1):
        for columns in range(1, min(whole.tiles, (machine.registers - blocks - 1) // blocks) + 1):
            each = row * (blocks + (0 if whole.staged else whole.input_blocks(machine.lanes)))
            stack = LOCAL_BYTES - row * (SYNTHESIS_SLOTS * blocks + (0 if whole.staged else ANALYSIS_SLOTS))
            fit = min(int(machine.l2_bytes * CACHE_SHARE), stack) // each // columns * columns
            if fit <= 0:
                continue
            for count in _counts(whole.tiles, fit, machine.threads):
                chunk = math.ceil(math.ceil(whole.tiles / count) / columns) * columns
                if chunk <= fit:
                    yield replace(whole, tile=TileShape(columns, blocks), chunk=chunk)


def _counts(tiles: int, fit: int, threads: int) -> Iterable[int]:
    """Numbers of chunks to try: as few as fit, and more, so that some divide among the threads."""
    fewest = -(-tiles // fit)
    return (count for count in range(fewest, fewest + 2 * threads + 1) if count <= tiles)


def cycles(plan: Winograd, machine: Machine) -> float:
    """Predicted cycles of one core: the products, or their weights' way from memory, and the transforms."""
    groups, output_tiles, points, channels, *_ = packed = packed_shape(plan, machine)
    last = plan.tiles - (plan.chunks - 1) * plan.chunk
    columns = (plan.chunks - 1) * (plan.chunk // plan.tile.columns) + -(-last // plan.tile.columns)
    each = step_cycles(plan.tile.columns, plan.tile.blocks)
    products = groups * output_tiles * points * columns * channels * each
    # Weights are read for every chunk, and in it for every group of columns, from where they fit.
    weights = math.prod(packed) * 4
    per_chunk = weights // (groups * output_tiles) if plan.staged else weights
    per_columns = weights // (groups * output_tiles * points)
    l2_share = machine.l2_bytes * (1 - CACHE_SHARE)
    streamed = weights * (1 if per_chunk < l2_share else plan.chunks)
    repeated = weights * (columns - plan.chunks) if per_columns > machine.l1_bytes / 2 else 0
    if per_columns > l2_share:
        streamed, repeated = streamed + repeated, 0
    inputs = plan.tiles * plan.input_blocks(machine.lanes)
    outputs = plan.tiles * groups * -(-plan.shape.outputs // machine.lanes)
    transforms = inputs * analysis_cycles(plan.filters) + outputs * synthesis_cycles(plan.filters)
    if plan.staged:
        # V is written, and read by every tile of output channels; most of it while the products are computed.
        transforms += points * inputs * machine.lanes * 4 * (1 + output_tiles) / (4 * STREAM_BYTES)
    each_thread = imbalance(blocks_of_work(plan, machine), machine)
    return (max(products, streamed / STREAM_BYTES + repeated / L2_BYTES) + transforms) * each_thread


def blocks_of_work(plan: Winograd, machine: Machine) -> int:
    """Extent of the kernel's parallel loop: chunks, and, of a staged plan, tiles of output channels."""
    return plan.chunks * (plan.shape.groups * plan.output_tiles(machine.lanes) if plan.staged else 1)


def analysis_cycles(filters: Sequence[Filter]) -> float:
    """Cycles of transforming what a tile sees of a vector of channels."""
    points = math.prod(transform.points for transform in filters)
    operations = sum(transform.analysis_operations * points / transform.points for transform in filters)
    return (operations + MOVE_CYCLES * 2 * points) / MULTIPLIERS


def synthesis_cycles(filters: Sequence[Filter]) -> float:
    """Cycles of transforming a tile of a vector of output channels back."""
    points = left = math.prod(transform.points for transform in filters)
    operations = 0.0
    for transform in filters:
        left //= transform.points
        operations += transform.synthesis_operations * left
        left *= transform.outputs
    # The outputs are stored twice: as they are, and through the epilogue.
    return (operations + MOVE_CYCLES * (points + 3 * left)) / MULTIPLIERS
