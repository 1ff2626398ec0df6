"""Kernels that reduce: sums, means, maxima over some axes of a tensor.

Vectors run along the output's innermost dimension where it is long enough (a reduction over rows, or over the pixels of
a blocked tensor), and otherwise along the innermost reduced dimension, in which case each lane keeps a partial result
and the lanes are combined at the end. Either way float sums are taken in another order than the textbook's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import logical, split_index, stays_in_lane, vector_loops
from lepton_compile.kernels.expressions import Reduction, count_operations, vector_store
from lepton_compile.kernels.kernel import Definition, Machine, Operands, Source, shape_of
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    nest,
    parallel,
    parameter,
    register,
    sequence,
    serial,
    store,
    vectorized,
)  # fmt: skip

# Partial results kept at once when vectors run along the reduced dimension: hides the latency of an addition.
ACCUMULATORS = 4


def reduction(output: te.Tensor, layout: Layout, sources: Sequence[Source], machine: Machine) -> Definition:
    """Compute `output`, a TE reduction, in the given layout.

    Args:
        output: The tensor; what its terms are computed from is inlined down to `sources`.
        layout: How the output lies in memory.
        sources: The tensors that it reads.
        machine: The instruction set.

    Returns:
        A kernel of the sources, in order, and the output.
    """
    reduce = Reduction(output)
    rank = len(output.shape)
    extents = layout.physical_shape(shape_of(output)) or (1,)
    reduced = [int(extent) for extent in reduce.extents]
    dtype = str(output.dtype)
    analyzer = sym.Analyzer()
    inputs = Operands(sources, analyzer)
    result = parameter("y", extents, dtype)
    boolean = "bool" in {dtype, *(str(buffer.dtype) for buffer in inputs.parameters)}
    lanes = 1 if boolean else machine.lanes

    def unguarded(at: Sequence[tirx.Expr], over: Sequence[tirx.Expr]) -> tirx.Expr:
        return reduce.term(logical(at, layout, rank), over, inputs.load)

    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(extents))]
    for variable, extent in zip(variables, extents, strict=True):
        analyzer.bind(variable, ir.Range(0, extent))
    general = unguarded(variables, [tirx.Var(f"k{axis}", "int32") for axis in range(len(reduced))])
    channels = shape_of(output)[1] if layout.block else 0
    guarded = bool(layout.block and channels % layout.block) and not stays_in_lane(general, variables)

    def term(at: Sequence[tirx.Expr], over: Sequence[tirx.Expr]) -> tirx.Expr:
        if not guarded:
            return unguarded(at, over)
        inside = at[1] * layout.block + at[-1] < channels
        return tirx.if_then_else(inside, unguarded(at, over), reduce.identity)

    def bounded_lane(lane: tirx.Expr, width: int) -> None:
        if width > 1:
            analyzer.bind(lane, ir.Range(0, width), True)

    def across_lanes(position: list[tirx.Expr], width: int) -> tirx.Stmt:
        """`width` neighbouring outputs, each lane one of them.

        A row is summed on its own before it is added: over n rows of n elements, one running sum would be off by n²
        roundings, which all go one way where a picture is flat.
        """
        total, row = register("total", width, dtype), register("row", width, dtype)
        *slow, fast = reduced or [1]

        def term_at(lane: tirx.Expr, over: list[tirx.Expr]) -> tirx.Expr:
            bounded_lane(lane, width)
            return term([*position[:-1], position[-1] + lane], over if reduced else [])

        def add(partial: tirx.Buffer, over: list[tirx.Expr]) -> tirx.Stmt:
            return vector_store(
                width,
                lambda lane: reduce.combine(load(partial, [lane]), term_at(lane, over)),
                lambda lane, v: store(partial, [lane], v),
            )

        def clear(partial: tirx.Buffer) -> tirx.Stmt:
            return vectorized(width, lambda lane: store(partial, [lane], reduce.identity))

        def add_row(outer: list[tirx.Expr]) -> tirx.Stmt:
            def combined(lane: tirx.Expr) -> tirx.Stmt:
                return store(total, [lane], reduce.combine(load(total, [lane]), load(row, [lane])))

            return sequence(
                [clear(row), serial(fast, lambda k: add(row, [*outer, k]), "k"), vectorized(width, combined)]
            )

        rows = nest(slow, add_row, "row") if slow else serial(fast, lambda k: add(total, [k]), "k")
        return allocate(
            [total, row] if slow else [total],
            [
                clear(total),
                rows,
                vectorized(
                    width, lambda lane: store(result, [*position[:-1], position[-1] + lane], load(total, [lane]))
                ),
            ],
        )

    def along_reduced(position: list[tirx.Expr]) -> tirx.Stmt:
        """One output; vectors along the last reduced dimension."""
        *slow, fast = reduced
        chains = ACCUMULATORS if fast >= lanes * ACCUMULATORS else 1
        partial = [register(f"partial{c}", lanes, dtype) for c in range(chains)]
        total = register("total", 1, dtype)
        vectors = fast // (lanes * chains)

        def add(outer: list[tirx.Expr], v: tirx.Expr, chain: int) -> tirx.Stmt:
            def value(lane: tirx.Expr) -> tirx.Expr:
                bounded_lane(lane, lanes)
                over = [*outer, (v * chains + chain) * lanes + lane]
                return reduce.combine(load(partial[chain], [lane]), term(position, over))

            return vector_store(lanes, value, lambda lane, x: store(partial[chain], [lane], x))

        def one(outer: list[tirx.Expr], k: tirx.Expr) -> tirx.Stmt:
            return vector_store(
                1,
                lambda lane: reduce.combine(load(total, [0]), term(position, [*outer, k])),
                lambda lane, x: store(total, [0], x),
            )

        def walk(outer: list[tirx.Expr]) -> tirx.Stmt:
            parts = [serial(vectors, lambda v: sequence(add(outer, v, c) for c in range(chains)), "vector")]
            done = vectors * chains * lanes
            if done < fast:
                parts.append(serial(fast - done, lambda k: one(outer, k + done), "tail"))
            return sequence(parts)

        def clear(chain: tirx.Buffer) -> tirx.Stmt:
            return vectorized(lanes, lambda lane: store(chain, [lane], reduce.identity))

        def fold(chain: tirx.Buffer) -> tirx.Stmt:
            def add_lane(lane: tirx.Expr) -> tirx.Stmt:
                return store(total, [0], reduce.combine(load(total, [0]), load(chain, [lane])))

            return serial(lanes, add_lane, "lane")

        return allocate(
            [*partial, total],
            [
                *(clear(chain) for chain in partial),
                store(total, [0], reduce.identity),
                nest(slow, walk, "k"),
                *(fold(chain) for chain in partial),
                store(result, position, load(total, [0])),
            ],
        )

    operations = (count_operations(general) + 1) * math.prod((*extents, *reduced))
    if extents[-1] < lanes and reduced and reduced[-1] >= lanes:
        blocks = math.prod(extents)
        body = parallel(blocks, lambda block: along_reduced(split_index(block, extents)))
    else:
        body, blocks = vector_loops(extents, lanes, across_lanes)
    return Definition(
        function=function([*inputs.parameters, result], body),
        inputs=len(sources),
        blocks=blocks,
        family="reduction",
        operations=operations,
    )
