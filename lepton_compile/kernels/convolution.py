"""Direct convolution in a register tile, over blocked activations.

Weights are packed as [group][tile of blocks][input block][kernel...][input lane][block in tile][output lane], in the order in
which the innermost loops read them. Convolutions with a 1x1 kernel and no stride are matrix products over all pixels at once;
any number of spatial axes is one loop more or less outside the innermost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import split_index
from lepton_compile.kernels.expressions import count_operations, vector_store
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.loops import (
    function, load, parallel, parameter, sequence, serial, store, when,
)  # fmt: skip
from lepton_compile.kernels.register_tile import UNROLLED_EPILOGUE, RegisterTile, TileShape, choose_tile
from lepton_compile.kernels.window import Tiles, Window, tile_row
from lepton_compile.lowering.program import PLAIN, Layout


@dataclass(frozen=True)
class Convolution:
    """The shapes of a convolution.

    Attributes:
        batch: Images.
        inputs: Input channels of one group.
        outputs: Output channels of one group.
        groups: Groups.
        windows: One per spatial axis.
        tile: The register tile.
    """

    batch: int
    inputs: int
    outputs: int
    groups: int
    windows: tuple[Window, ...]
    tile: TileShape

    @property
    def flat(self) -> bool:
        """Whether it is a matrix product over the pixels."""
        return all(window.is_identity() for window in self.windows)

    @property
    def pixels(self) -> int:
        """Output positions of one channel."""
        return math.prod(window.positions for window in self.windows)


def convolution_of(
    batch: int, inputs: int, outputs: int, groups: int, windows: Sequence[Window], machine: Machine
) -> Convolution:
    """Choose the register tile of a convolution."""
    flat = all(window.is_identity() for window in windows)
    columns = math.prod(window.positions for window in windows) if flat else windows[-1].positions
    tile = choose_tile(columns, -(-outputs // machine.lanes), machine)
    return Convolution(batch, inputs, outputs, groups, tuple(windows), tile)


def packed_shape(shapes: Convolution, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights."""
    lanes = machine.lanes
    blocks = -(-shapes.outputs // lanes)
    return (
        shapes.groups,
        -(-blocks // shapes.tile.blocks),
        -(-shapes.inputs // lanes),
        *(window.kernel for window in shapes.windows),
        min(lanes, shapes.inputs),
        shapes.tile.blocks,
        lanes,
    )


def pack_weights(
    weights: npt.NDArray[np.float32], shapes: Convolution, machine: Machine
) -> npt.NDArray[np.float32]:
    """Pack weights of shape (outputs * groups, inputs, kernel...), zeros where a block has no channel."""
    groups, tiles, input_blocks, *kernel, input_lanes, blocks, lanes = packed_shape(shapes, machine)
    padded = np.zeros(
        (groups, tiles * blocks * lanes, input_blocks * input_lanes, *kernel), dtype=weights.dtype
    )
    padded[:, : shapes.outputs, : shapes.inputs] = weights.reshape(groups, shapes.outputs, shapes.inputs, *kernel)
    split = padded.reshape(groups, tiles, blocks, lanes, input_blocks, input_lanes, *kernel)
    axes = range(6, 6 + len(kernel))
    return np.ascontiguousarray(split.transpose(0, 1, 4, *axes, 5, 2, 3))


def convolution(shapes: Convolution, source: Source, epilogue: Epilogue, machine: Machine) -> Definition:
    """A direct convolution.

    Args:
        shapes: Its shapes.
        source: The input, of shape (batch, inputs * groups, spatial...), in any layout.
        epilogue: What is stored; its layout is blocked by the machine's lanes.
        machine: The instruction set.

    Returns:
        A kernel of the input, the packed weights, the epilogue's sources and the output.
    """
    lanes, tile = machine.lanes, shapes.tile
    analyzer = sym.Analyzer()
    shape = packed_shape(shapes, machine)
    weights = te.placeholder(shape, "float32", name="weights")
    inputs = Operands([source, Source(weights, PLAIN), *epilogue.sources], analyzer)
    packed = inputs.buffer(weights)
    result = parameter(
        "y", epilogue.layout.physical_shape(shape_of(epilogue.result)), str(epilogue.result.dtype)
    )
    _, tiles, input_blocks, *kernel, input_lanes, _, _ = shape
    output_blocks = -(-shapes.outputs // lanes)
    aligned = shapes.groups == 1 or shapes.outputs % lanes == 0

    def store_tile(n: tirx.Expr, g: tirx.Expr, tile_index: tirx.Expr, at: Callable[[int], list[tirx.Expr]]):  # type: ignore[no-untyped-def]
        def channel(b: int, lane: tirx.Expr) -> tirx.Expr:
            return g * shapes.outputs + (tile_index * tile.blocks + b) * lanes + lane

        def lane_store(b: int, position: list[tirx.Expr], value: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
            def where(lane: tirx.Expr) -> list[tirx.Expr]:
                if isinstance(lane, tirx.Var):
                    analyzer.bind(lane, ir.Range(0, lanes), True)
                return [n, channel(b, lane), *position]

            def put(lane: tirx.Expr, v: tirx.Expr) -> tirx.Stmt:
                return store(result, physical(epilogue.layout, where(lane), analyzer), v)

            if aligned:
                whole = vector_store(lanes, value, put)
                if output_blocks % tile.blocks == 0 or b < output_blocks % tile.blocks:
                    return whole
                return when(tile_index * tile.blocks + b < output_blocks, whole)
            left = shapes.outputs - (tile_index * tile.blocks + b) * lanes
            return serial(
                tirx.max(0, tirx.min(lanes, left)), lambda lane: vector_store(1, lambda _: value(lane), lambda _, v: put(lane, v))
            )

        def final(b: int, position: list[tirx.Expr], raw: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
            return lane_store(
                b, position, lambda lane: epilogue.apply(raw(lane), [n, channel(b, lane), *position], inputs)
            )

        return lane_store, final

    probe = [tirx.Var(f"p{axis}", "int32") for axis in range(len(shape_of(epilogue.result)))]
    cost = count_operations(epilogue.apply(tirx.Var("value", "float32"), probe, inputs))

    def tile_at(
        n: tirx.Expr, g: tirx.Expr, tile_index: tirx.Expr, outer: list[tirx.Expr], begin: tirx.Expr | int, tiles_: Tiles
    ) -> tirx.Stmt:
        """One tile: `outer` are the positions on all spatial axes but the last, `begin` the first one on the last."""
        window = shapes.windows[-1]
        registers = RegisterTile(TileShape(tiles_.width, tile.blocks), machine)

        def output_position(t: tirx.Expr | int) -> list[tirx.Expr]:
            if shapes.flat:
                return split_index(begin + t, [w.positions for w in shapes.windows])
            ends = [w.stored_at(p) for w, p in zip(shapes.windows, [*outer, begin + t], strict=True)]
            return ends

        def step(columns: Sequence[int], ib: tirx.Expr, taps: list[tirx.Expr | int], ii: tirx.Expr) -> tirx.Stmt:
            if isinstance(ii, tirx.Var):
                analyzer.bind(ii, ir.Range(0, input_lanes), True)
            c = g * shapes.inputs + ib * lanes + ii

            def value(t: int) -> tirx.Expr:
                if shapes.flat:
                    return inputs.load(source.tensor, [n, c, *output_position(t)])
                seen = [
                    p * w.stride - w.pad + tap * w.dilation
                    for w, p, tap in zip(shapes.windows, [*outer, begin + t], taps, strict=True)
                ]
                return inputs.load(source.tensor, [n, c, *seen])

            return registers.step(
                columns, value, lambda b, lane: load(packed, [g, tile_index, ib, *taps, ii, b, lane])
            )

        def over_lanes(columns: Sequence[int], ib: tirx.Expr, taps: list[tirx.Expr | int]) -> tirx.Stmt:
            tail = shapes.inputs % lanes
            extent: int | tirx.Expr = input_lanes
            if tail and input_blocks > 1:
                extent = tirx.min(lanes, shapes.inputs - ib * lanes)
            return serial(extent, lambda ii: step(columns, ib, taps, ii), "ii")

        def innermost_taps(ib: tirx.Expr, outer_taps: list[tirx.Expr | int]) -> tirx.Stmt:
            everywhere = range(tiles_.width)
            if shapes.flat or not tiles_.border:
                return serial(
                    window.kernel, lambda tap: over_lanes(everywhere, ib, [*outer_taps, tap]), "kw"
                )
            assert isinstance(begin, int)
            parts = []
            for tap in range(window.kernel):
                columns = [t for t in everywhere if window.inside(begin + t, tap)]
                if columns:
                    parts.append(over_lanes(columns, ib, [*outer_taps, tap]))
            return sequence(parts)

        def outer_taps(ib: tirx.Expr, left: Sequence[int], taken: list[tirx.Expr | int]) -> tirx.Stmt:
            if not left:
                return innermost_taps(ib, taken)
            axis = len(taken)
            if shapes.flat:
                return outer_taps(ib, left[1:], [*taken, 0])
            first, count = shapes.windows[axis].taps(outer[axis])
            return serial(count, lambda tap: outer_taps(ib, left[1:], [*taken, first + tap]), "kh")

        reduce = serial(input_blocks, lambda ib: outer_taps(ib, kernel[:-1], []), "ib")
        raw_store, final = store_tile(n, g, tile_index, output_position)
        if cost <= UNROLLED_EPILOGUE:
            return registers.run([reduce], lambda b, t, lane: final(b, output_position(t), lane))

        def again(t: tirx.Expr) -> tirx.Stmt:
            position = output_position(t)

            def stored(b: int) -> Callable[[tirx.Expr], tirx.Expr]:
                def at(lane: tirx.Expr) -> tirx.Expr:
                    if isinstance(lane, tirx.Var):
                        analyzer.bind(lane, ir.Range(0, lanes), True)
                    c = g * shapes.outputs + (tile_index * tile.blocks + b) * lanes + lane
                    return load(result, physical(epilogue.layout, [n, c, *position], analyzer))

                return at

            return sequence(final(b, position, stored(b)) for b in range(tile.blocks))

        return sequence(
            [
                registers.run([reduce], lambda b, t, lane: raw_store(b, output_position(t), lane)),
                serial(tiles_.width, again, "t"),
            ]
        )

    def row(n: tirx.Expr, g: tirx.Expr, tile_index: tirx.Expr, outer: list[tirx.Expr]) -> tirx.Stmt:
        parts = []
        for tiles_ in tile_row(shapes.windows[-1], tile.columns):
            if tiles_.count == 1:
                parts.append(tile_at(n, g, tile_index, outer, tiles_.begin, tiles_))
            else:
                parts.append(
                    serial(
                        tiles_.count,
                        lambda w, t=tiles_: tile_at(n, g, tile_index, outer, w * t.width + t.begin, t),  # type: ignore[misc]
                        "wo",
                    )
                )
        return sequence(parts)

    def flat_tile(n: tirx.Expr, g: tirx.Expr, tile_index: tirx.Expr, w: tirx.Expr) -> tirx.Stmt:
        full, tail = divmod(shapes.pixels, tile.columns)
        whole = tile_at(n, g, tile_index, [], w * tile.columns, Tiles(0, tile.columns, 1, False)) if full else None
        if not tail:
            assert whole is not None
            return whole
        rest = tile_at(n, g, tile_index, [], full * tile.columns, Tiles(0, tail, 1, False))
        return when(w < full, whole, rest) if whole is not None else rest

    positions = [window.positions for window in shapes.windows]
    rows = [-(-shapes.pixels // tile.columns)] if shapes.flat else positions[:-1]

    def body(n: tirx.Expr, g: tirx.Expr, tile_index: tirx.Expr, at: list[tirx.Expr]) -> tirx.Stmt:
        return flat_tile(n, g, tile_index, at[0]) if shapes.flat else row(n, g, tile_index, at)

    # The outer of the two loops reads its operand once and the other operand once per step: put the larger one outside.
    weight_bytes = math.prod(shape[2:]) * tiles
    input_bytes = shapes.inputs * math.prod(window.input for window in shapes.windows)
    rows_outside = weight_bytes * math.prod(rows) < input_bytes * tiles
    extents = [shapes.batch, shapes.groups, *rows, tiles] if rows_outside else [shapes.batch, shapes.groups, tiles, *rows]
    blocks = math.prod(extents)

    def block(index: tirx.Expr) -> tirx.Stmt:
        n, g, *rest = split_index(index, extents)
        return body(n, g, rest[-1], rest[:-1]) if rows_outside else body(n, g, rest[0], rest[1:])

    return Definition(
        function=function([*inputs.parameters, result], parallel(blocks, block)),
        inputs=len(inputs.parameters),
        blocks=blocks,
        family="convolution",
        operations=shapes.batch * shapes.groups * shapes.outputs * shapes.pixels
        * (2 * shapes.inputs * math.prod(kernel) + cost),
    )


def packed_weights(weights: te.Tensor, shapes: Convolution, machine: Machine) -> te.Tensor:
    """The packing of `pack_weights` as a computation, for weights that are known only at run time."""
    lanes, blocks = machine.lanes, shapes.tile.blocks

    def element(*at: tirx.Expr) -> tirx.Expr:
        g, tile, ib, *taps, ii, block, lane = at
        output, channel = (tile * blocks + block) * lanes + lane, ib * lanes + ii
        inside = tirx.all(output < shapes.outputs, channel < shapes.inputs)
        value = weights(g * shapes.outputs + output, channel, *taps)
        return tirx.if_then_else(inside, value, tirx.const(0, str(weights.dtype)))

    return te.compute(packed_shape(shapes, machine), element, name="packed")
