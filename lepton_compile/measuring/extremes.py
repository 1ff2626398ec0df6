"""A program of multiply-adds in registers, and of reads: what a roofline is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    parallel,
    parameter,
    register,
    sequence,
    serial,
    store,
    vectorized,
)
from lepton_compile.lowering.program import Buffer, Call, Kernel, MemoryPlan, Program, Storage

# More than multiply-adds start within the time that one takes (2 a cycle, 4 cycles), and few enough for 16 registers.
ACCUMULATORS = 12
MULTIPLY_ADDS = 1 << 16  # of each accumulator in a block


@dataclass(frozen=True)
class Reading:
    """Reads the same floats again and again.

    Attributes:
        floats: How many; a multiple of the vectors of all accumulators is read.
        passes: How often. Each is a block of the kernel: a thread walks through all of them before it repeats.
    """

    floats: int
    passes: int


def extremes(lanes: int, blocks: int, reads: Sequence[Reading]) -> Program:
    """A step of multiply-adds, then one for each of `reads`.

    Args:
        lanes: float32 values in a vector register.
        blocks: In how many parts the multiply-adds can be split.
        reads: What the other steps do; they read from the input "data".
    """
    kernels = [_multiply_add(lanes, blocks), *(_read(f"read_{n}", lanes, read) for n, read in enumerate(reads))]
    factors = Buffer("factors", (2,), "float32", storage=Storage.INPUT)
    data = Buffer("data", (max(read.floats for read in reads),), "float32", storage=Storage.INPUT)
    results = [
        Buffer(f"y{number}", (kernel.blocks, lanes), "float32", storage=Storage.OUTPUT)
        for number, kernel in enumerate(kernels)
    ]
    offsets, end = {}, 0
    for result in results:
        offsets[result.name] = end
        end += -(-result.nbytes() // 64) * 64
    return Program(
        name="extremes",
        inputs=(factors, data),
        outputs=tuple(results),
        buffers={buffer.name: buffer for buffer in (factors, data, *results)},
        weights={},
        kernels={kernel.name: kernel for kernel in kernels},
        steps=tuple(
            Call(kernel.name, ("data" if number else "factors", result.name), ())
            for number, (kernel, result) in enumerate(zip(kernels, results, strict=True))
        ),
        memory=MemoryPlan(offsets, end),
    )


def _multiply_add(lanes: int, blocks: int) -> Kernel:
    """Every accumulator becomes itself * x[0] + x[1], again and again."""
    x = parameter("x", (2,), "float32")
    return _kernel(
        "multiply_add",
        x,
        lanes,
        blocks,
        MULTIPLY_ADDS,
        lambda value, _index, _lane: value * load(x, [0]) + load(x, [1]),
        2 * blocks * MULTIPLY_ADDS * ACCUMULATORS * lanes,
    )


def _read(name: str, lanes: int, read: Reading) -> Kernel:
    """Every accumulator adds up its share of the vectors."""
    x = parameter("x", (read.floats,), "float32")
    return _kernel(
        name,
        x,
        lanes,
        read.passes,
        read.floats // (lanes * ACCUMULATORS),
        lambda value, index, lane: value + load(x, [index * lanes + lane]),
        read.passes * read.floats,
    )


def _kernel(
    name: str,
    x: tirx.Buffer,
    lanes: int,
    blocks: int,
    steps: int,
    value: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr],
    operations: int,
) -> Kernel:
    """A loop over all accumulators: `value` makes a lane's next value of the last, and the vector's number and lane."""
    y = parameter("y", (blocks, lanes), "float32")
    accumulators = [register(f"c{number}", lanes) for number in range(ACCUMULATORS)]

    def assign(number: int, next_value: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
        return vectorized(lanes, lambda lane: store(accumulators[number], [lane], next_value(lane)))

    def held(number: int, lane: tirx.Expr) -> tirx.Expr:
        return load(accumulators[number], [lane])

    def step(i: tirx.Expr) -> tirx.Stmt:
        return sequence(
            assign(n, lambda lane, n=n: value(held(n, lane), i * ACCUMULATORS + n, lane))  # type: ignore[misc]
            for n in range(ACCUMULATORS)
        )

    def block(b: tirx.Expr) -> tirx.Stmt:
        # Different starts, or they would all be one accumulator to the compiler.
        starts = [assign(n, lambda _, n=n: tirx.const(float(n), "float32")) for n in range(ACCUMULATORS)]  # type: ignore[misc]
        total = vectorized(
            lanes, lambda lane: store(y, [b, lane], sum((held(n, lane) for n in range(1, ACCUMULATORS)), held(0, lane)))
        )
        return allocate(accumulators, [*starts, serial(steps, step), total])

    return Kernel(name, function([x, y], parallel(blocks, block)), 1, 1, blocks, "extreme", operations, ())
