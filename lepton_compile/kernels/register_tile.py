"""The register tile: how matrix products and convolutions reach the hardware's peak.

A tile of `columns` x `blocks` vectors of accumulators stays in registers for the whole reduction. Each step of the
reduction loads one weight vector per block, broadcasts one input value per column, and multiplies every pair. The more
square the tile, the fewer loads for a multiply-add; the larger, the more of the multiplier's latency is hidden.

What the code must look like for that to happen (found by measuring, on AVX-512):
every accumulator is a buffer of its own; a step of the reduction is the body of the innermost loop, alone, as LLVM
would share broadcasts between unrolled steps and run out of registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.loops import allocate, load, local, register, sequence, serial, store, vectorized

MULTIPLIERS = 2  # multiply-adds that start in a cycle
LOAD_PORTS = 2  # loads that start in a cycle
LATENCY = 4  # cycles from one multiply-add to the next one on the same accumulator
STREAM_BYTES = 12  # bytes that stream from memory, or the last cache, in a cycle
L2_BYTES = 48  # bytes that stream from the level-2 cache in a cycle
# An epilogue of more operations than this is a loop over the stored tile instead of being unrolled over its registers.
UNROLLED_EPILOGUE = 8
LOOP_OVERHEAD = 0.5  # cycles of a step that are spent on neither
LOAD_COST = 0.03  # cycles by which a load delays the rest, though there are ports enough


# From the position in a vector to a lane's value.
LaneValue = Callable[[tirx.Expr], tirx.Expr]
# From the column and the block of a tile that was put aside to its lanes.
StoredTile = Callable[[tirx.Expr, int], LaneValue]


@dataclass(frozen=True)
class TileShape:
    """Columns (input values broadcast) and blocks (vectors of output channels) of a register tile."""

    columns: int
    blocks: int


def step_cycles(columns: int, blocks: int) -> float:
    """Cycles that one step of the reduction takes a tile, by the throughput of its busiest part."""
    loads = columns + blocks
    return LOOP_OVERHEAD + LOAD_COST * loads + max(columns * blocks / MULTIPLIERS, loads / LOAD_PORTS, LATENCY)


def choose_tile(columns: int, blocks: int, machine: Machine, vectors: int = 1) -> TileShape:
    """The tile that covers `columns` x `blocks` in the fewest cycles; see `rank_tiles`."""
    return rank_tiles(columns, blocks, machine, vectors)[0]


def rank_tiles(columns: int, blocks: int, machine: Machine, vectors: int = 1) -> list[TileShape]:
    """All tiles, those first that cover `columns` x `blocks` in the fewest cycles.

    Args:
        columns: Output columns in all, tails included.
        blocks: Vectors of output channels in all, tails included.
        machine: Its registers hold the accumulators, the weight vectors of each block, and one broadcast value.
        vectors: Weight vectors of a block: more than one where weights are taken out of words, which wait.
    """

    def cycles(shape: TileShape) -> float:
        full, tail = divmod(columns, shape.columns)
        row = full * step_cycles(shape.columns, shape.blocks)
        if tail:
            row += step_cycles(tail, shape.blocks)
        return row * -(-blocks // shape.blocks)

    candidates = [
        TileShape(c, b)
        for b in range(1, min(blocks, machine.registers // 2) + 1)
        for c in range(1, min(columns, machine.registers) + 1)
        if c * b + vectors * b + 1 <= machine.registers
    ]
    return sorted(candidates, key=lambda shape: (cycles(shape), shape.columns * shape.blocks))


class RegisterTile:
    """The accumulators of one tile and the statements over them."""

    def __init__(self, shape: TileShape, machine: Machine, dtype: str = "float32") -> None:
        self.shape = shape
        self._lanes = machine.lanes
        self.dtype = dtype
        self._accumulators = [
            [register(f"c{b}_{t}", machine.lanes, dtype) for t in range(shape.columns)] for b in range(shape.blocks)
        ]

    def step(
        self,
        columns: Sequence[int],
        value: Callable[[int, tirx.Expr], tirx.Expr],
        weight: Callable[[int, tirx.Expr], tirx.Expr],
    ) -> tirx.Stmt:
        """One step of the reduction for some of the columns.

        Args:
            columns: Which columns take part; at a border some have no input.
            value: From the column and the lane to the input value that it multiplies.
            weight: From the block and the lane to the weight.
        """
        statements = []
        for t in columns:
            for b in range(self.shape.blocks):
                accumulator = self._accumulators[b][t]
                statements.append(
                    vectorized(
                        self._lanes,
                        lambda lane, a=accumulator, b=b, t=t: store(  # type: ignore[misc]
                            a, [lane], load(a, [lane]) + value(t, lane) * weight(b, lane)
                        ),
                    )
                )
        return sequence(statements)

    def accumulate(self, b: int, t: int, value: LaneValue) -> tirx.Stmt:
        """Add a vector to the accumulator of block `b` and column `t`."""
        accumulator = self._accumulators[b][t]
        return vectorized(self._lanes, lambda lane: store(accumulator, [lane], load(accumulator, [lane]) + value(lane)))

    def run(
        self,
        reduce: Sequence[tirx.Stmt],
        finish: Callable[[int, int, Callable[[tirx.Expr], tirx.Expr]], tirx.Stmt],
    ) -> tirx.Stmt:
        """Clear the accumulators, reduce, and store.

        Args:
            reduce: The loops over `step`.
            finish: From the block, the column and the accumulator's lanes to the statement that stores them.
        """
        cells = [(b, t) for t in range(self.shape.columns) for b in range(self.shape.blocks)]
        clear = [
            vectorized(
                self._lanes,
                lambda lane, a=self._accumulators[b][t]: store(a, [lane], tirx.const(0, self.dtype)),  # type: ignore[misc]
            )
            for b, t in cells
        ]
        ending = [
            finish(b, t, lambda lane, a=self._accumulators[b][t]: load(a, [lane]))  # type: ignore[misc]
            for b, t in cells
        ]
        return allocate([a for row in self._accumulators for a in row], [*clear, *reduce, *ending])

    def run_stored(
        self, reduce: Sequence[tirx.Stmt], finish: Callable[[StoredTile, tirx.Expr], tirx.Stmt]
    ) -> tirx.Stmt:
        """Clear the accumulators, reduce, and put them aside, for code that takes too many registers beside them.

        Args:
            reduce: The loops over `step`.
            finish: From what was put aside and the column to the statement that stores it.
        """
        sums = local("sums", [self.shape.columns, self.shape.blocks, self._lanes], self.dtype)

        def keep(b: int, t: int, raw: LaneValue) -> tirx.Stmt:
            return vectorized(self._lanes, lambda lane: store(sums, [t, b, lane], raw(lane)))

        def stored(t: tirx.Expr, b: int) -> LaneValue:
            return lambda lane: load(sums, [t, b, lane])

        ending = serial(self.shape.columns, lambda t: finish(stored, t), "t")
        return allocate([sums], [self.run(reduce, keep), ending])
