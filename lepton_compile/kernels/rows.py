"""Kernels that compute row by row: reductions, and what stands before, between and behind them.

Softmax is a maximum, a sum and a division; layer normalisation a mean, a variance and an affine map. One kernel does
all of it for a row while the row is in the cache, whatever the operators were: `row_plan.py` says which reductions
share their rows.

Vectors run along the rows where that is how memory lies: each lane then keeps partial results, and the lanes are
combined at the end. Otherwise (softmax over channels, instance normalisation of a blocked tensor) neighbouring rows are
the lanes. Either way float sums are taken in another order than the textbook's: n terms in m partial sums, each added
up in runs, are off by about n / m / RUN + RUN roundings at worst, where one running sum would be off by n.

What is expensive and needed again is kept where the result will be, and the result is written over it: so a kernel may
write to its output before it has read all of its operands, and the two must not share memory. Where the result is of
another type, it is kept on the stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import ir, sym, te, tirx

from lepton_compile.kernels.elementwise import (
    logical,
    merged_axes,
    split_index,
    stays_in_lane,
    unmerge,
    vector_loops,
)
from lepton_compile.kernels.expressions import (
    Load,
    Reduction,
    count_operations,
    evaluate,
    identity,
    loads_of,
    rewrite,
    variables_outside_loads,
    vector_store,
)
from lepton_compile.kernels.kernel import Definition, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    local,
    nest,
    parallel,
    parameter,
    register,
    sequence,
    serial,
    store,
    vectorized,
)  # fmt: skip
from lepton_compile.kernels.row_plan import RowPlan, Stage

# Partial results kept at once when vectors run along the row: hides the latency of an addition.
CHAINS = 4
# So many terms are added to a partial result before it is added to the total.
RUN = 128

# From a lane, its position in the vector, to a list of indices.
At = Callable[[tirx.Expr], list[tirx.Expr]]
ZERO = tirx.const(0, "int32")


def rows(plan: RowPlan, layout: Layout, sources: Sequence[Source], machine: Machine) -> Definition:
    """Compute a tensor row by row.

    Args:
        plan: The tensor and the reductions on the way to it.
        layout: How the tensor lies in memory.
        sources: The tensors that it reads: `row_leaves`.
        machine: The instruction set.

    Returns:
        A kernel of the sources, in order, and the tensor.
    """
    return _Emitter(plan, layout, sources, machine).definition()


class _Emitter:
    """The loops of one kernel, from the operands to the outermost block.

    A place is a list of indices of the result's axes as they lie in memory; in that of a row, those that run along it
    are 0.
    """

    def __init__(self, plan: RowPlan, layout: Layout, sources: Sequence[Source], machine: Machine) -> None:
        self.plan, self.layout = plan, layout
        output = plan.output
        self.extents = layout.physical_shape(shape_of(output)) or (1,)
        self.channels = shape_of(output)[1] if layout.block else 0
        self.analyzer = sym.Analyzer()
        self.inputs = Operands(sources, self.analyzer)
        self.result = parameter("y", self.extents, str(output.dtype))
        dtypes = {str(output.dtype), *(str(buffer.dtype) for buffer in self.inputs.parameters)}
        # Vectors of booleans are packed bits in LLVM but bytes in memory: leave those to its own vectoriser.
        self.lanes = 1 if "bool" in dtypes else machine.lanes
        self.reduce = {stage: Reduction(stage.reduction) for stage in plan.stages}
        self.reduced = {stage: [int(extent) for extent in self.reduce[stage].extents] for stage in plan.stages}

        logical_axis = [0, 1, *range(2, len(output.shape)), 1] if layout.block else range(len(self.extents))
        self.across = [axis for axis, own in enumerate(logical_axis) if own in plan.rows]
        self.along = [axis for axis, own in enumerate(logical_axis) if own not in plan.rows]

        # What is kept aside of a row, or, in its last axis, of each of some rows.
        self.aside: tirx.Buffer | None = self.aside_of(1) if plan.keeps_aside else None

        # A row's values, in the lane that is asked for; placeholders until there are registers for them.
        self.values: dict[te.Operation, Callable[[tirx.Expr], tirx.Expr]] = {}
        for stage in plan.stages:
            unknown = tirx.Var("value", str(stage.reduction.dtype))
            self.values[stage.reduction.op] = lambda _, unknown=unknown: unknown  # type: ignore[misc]
        self.guarded = False
        self.place = [self.variable(f"i{axis}", size) for axis, size in enumerate(self.extents)]
        self.over = {
            stage: [self.variable(f"k{axis}", size) for axis, size in enumerate(self.reduced[stage])]
            for stage in plan.stages
        }
        self.general = self.value(self.place, ZERO)
        self.terms = {stage: self.term(stage, self.place, self.over[stage], ZERO) for stage in plan.stages}
        padded = bool(layout.block and self.channels % layout.block)
        self.guarded = padded and not all(
            stays_in_lane(value, self.place) for value in (self.general, *self.terms.values())
        )

    def definition(self) -> Definition:
        """The kernel."""
        count = math.prod(self.extents[axis] for axis in self.across)
        if self.runs_along():
            sizes = [self.extents[axis] for axis in self.across]
            body: tirx.Stmt = parallel(count, lambda block: self.one_row(self.row_place(split_index(block, sizes))))
            blocks = count
        else:
            body, blocks = self.neighbouring_rows()
        operations = count_operations(self.general) * math.prod(self.extents)
        for stage in self.plan.stages:
            operations += (count_operations(self.terms[stage]) + 1) * count * math.prod(self.reduced[stage])
        return Definition(
            function=function([*self.inputs.parameters, self.result], body),
            inputs=len(self.inputs.parameters),
            blocks=blocks,
            family="reduction" if len(self.plan.stages) == 1 and count == math.prod(self.extents) else "rows",
            operations=operations,
        )

    # What is computed, at given indices.

    def variable(self, name: str, size: int) -> tirx.Var:
        """A variable that the analyzer knows the range of."""
        variable = tirx.Var(name, "int32")
        if size:
            self.analyzer.bind(variable, ir.Range(0, size))
        return variable

    def bound(self, lane: tirx.Expr, width: int) -> tirx.Expr:
        """A lane whose range the analyzer knows."""
        if width > 1:
            self.analyzer.bind(lane, ir.Range(0, width), True)
        return lane

    def load(self, lane: tirx.Expr) -> Load:
        """What a leaf is, in a lane: a value of the row, the kept tensor, or an operand."""

        def leaf(tensor: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
            if tensor.op in self.values:
                return self.values[tensor.op](lane)
            if self.plan.is_kept(tensor):
                return load(*self.kept_place(at, lane))
            return self.inputs.load(tensor, at)

        return leaf

    def inside(self, place: Sequence[tirx.Expr], value: tirx.Expr, otherwise: tirx.Expr) -> tirx.Expr:
        """A value where there is a channel, if operands have none in the padding lanes."""
        if not self.guarded:
            return value
        return tirx.if_then_else(place[1] * self.layout.block + place[-1] < self.channels, value, otherwise)

    def value(self, place: Sequence[tirx.Expr], lane: tirx.Expr) -> tirx.Expr:
        """An element of the result."""
        output = self.plan.output
        value = evaluate(output, logical(place, self.layout, len(output.shape)), self.load(lane), self.plan.inlined)
        return self.inside(place, value, tirx.const(0, str(output.dtype)))

    def term(self, stage: Stage, row: Sequence[tirx.Expr], over: Sequence[tirx.Expr], lane: tirx.Expr) -> tirx.Expr:
        """What takes part in a reduction of a row."""
        indices = logical(row, self.layout, len(self.plan.output.shape))
        bound = dict(zip(map(identity, self.plan.variables), indices, strict=True))
        at = [
            rewrite(index, lambda node: bound.get(identity(node)) if type(node) is tirx.Var else None)
            for index in stage.at
        ]
        reduce = self.reduce[stage]
        return self.inside(row, reduce.term(at, over, self.load(lane), self.plan.inlined), reduce.identity)

    def kept_at(self, stage: Stage, row: Sequence[tirx.Expr], over: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """Indices of the kept tensor's element that a stage's term is computed from."""
        indices = logical(row, self.layout, len(self.plan.output.shape))
        for axis, reduced in stage.walk or ():
            indices[axis] = over[reduced]
        return indices

    def aside_of(self, width: int) -> tirx.Buffer:
        """Memory for what is kept of so many rows, elsewhere than where the result will be."""
        assert self.plan.kept is not None
        return local("kept", [*(self.extents[axis] for axis in self.along), width], str(self.plan.kept.dtype))

    def kept_place(self, at: Sequence[tirx.Expr], lane: tirx.Expr) -> tuple[tirx.Buffer, list[tirx.Expr]]:
        """Where the kept tensor's element at these logical indices lies, `lane` being that of the row."""
        place = physical(self.layout, at, self.analyzer)
        if self.aside is None:
            return self.result, place
        row = lane if int(self.aside.shape[-1]) > 1 else ZERO
        return self.aside, [*(place[axis] for axis in self.along), row]

    def writes_kept(self, stage: Stage) -> bool:
        """Whether a stage is the first that uses the kept tensor, and so computes it."""
        users = [each for each in self.plan.stages if each.walk is not None]
        return bool(users) and users[0] is stage

    def step(self, stage: Stage, partial: tirx.Buffer, width: int, row: At, over: At) -> tirx.Stmt:
        """Add a vector of terms to a vector of partial results."""
        statements = []
        if self.writes_kept(stage):
            kept = self.plan.kept
            assert kept is not None

            def at(lane: tirx.Expr) -> list[tirx.Expr]:
                return self.kept_at(stage, row(lane), over(lane))

            def element(lane: tirx.Expr) -> tirx.Expr:
                self.bound(lane, width)
                computed = evaluate(kept, at(lane), self.load(lane))
                return self.inside(row(lane), computed, tirx.const(0, str(kept.dtype)))

            def keep(lane: tirx.Expr, value: tirx.Expr) -> tirx.Stmt:
                buffer, place = self.kept_place(at(lane), lane)
                return store(buffer, place, value)

            statements.append(vector_store(width, element, keep))

        def added(lane: tirx.Expr) -> tirx.Expr:
            self.bound(lane, width)
            term = self.term(stage, row(lane), over(lane), lane)
            return self.reduce[stage].combine(load(partial, [lane]), term)

        statements.append(vector_store(width, added, lambda lane, value: store(partial, [lane], value)))
        return sequence(statements)

    def clear(self, stage: Stage, partial: tirx.Buffer, width: int) -> tirx.Stmt:
        """Partial results of nothing."""
        return vectorized(width, lambda lane: store(partial, [lane], self.reduce[stage].identity))

    def combine(self, stage: Stage, total: tirx.Buffer, other: tirx.Buffer, width: int, shift: int = 0) -> tirx.Stmt:
        """Add `width` partial results, from `shift` on, to a total."""

        def combined(lane: tirx.Expr) -> tirx.Stmt:
            added = self.reduce[stage].combine(load(total, [lane]), load(other, [lane + shift if shift else lane]))
            return store(total, [lane], added)

        return vectorized(width, combined)

    def put(self, width: int, at: At) -> tirx.Stmt:
        """Store a vector of the result."""

        def value(lane: tirx.Expr) -> tirx.Expr:
            return self.value(at(self.bound(lane, width)), lane)

        return vector_store(width, value, lambda lane, value: store(self.result, at(lane), value))

    # Which way vectors run, and which axes are walked as one.

    def runs_along(self) -> bool:
        """Whether more of what is read and written lies side by side along the rows than across them."""
        across = {identity(self.place[axis]) for axis in self.across}
        along = {identity(self.place[axis]) for axis in self.along}
        along |= {identity(variable) for over in self.over.values() for variable in over}
        votes = 0
        for value in (self.general, *self.terms.values(), load(self.result, self.place)):
            for read in loads_of(value):
                if self.aside is not None and read.source.same_as(self.aside):  # it lies as vectors run
                    continue
                sizes = [int(size) for size in read.source.shape]
                last = max((axis for axis, size in enumerate(sizes) if size > 1), default=0)
                used = variables_outside_loads(read.indices[last])
                votes += 1 if used & along else -1 if used & across else 0
        if not self.across or votes > 0:
            return True
        return votes == 0 and any(self.reduced[stage][-1] >= self.lanes for stage in self.plan.stages)

    def merged(
        self, values: Sequence[tirx.Expr], variables: Sequence[tirx.Var], extents: Sequence[int]
    ) -> list[list[int]]:
        """Groups of axes that can be walked as one, whichever of the values is looked at."""
        if not extents:
            return []
        starts = {group[0] for value in values for group in merged_axes(value, variables, extents, extents)}
        groups: list[list[int]] = []
        for axis in range(len(extents)):
            if axis in starts:
                groups.append([])
            groups[-1].append(axis)
        return groups

    def row_place(self, indices: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """The place of a row from its own indices."""
        place = [ZERO] * len(self.extents)
        for axis, index in zip(self.across, indices, strict=True):
            place[axis] = index
        return place

    # Vectors along the row.

    def one_row(self, row: list[tirx.Expr]) -> tirx.Stmt:
        """Everything about one row."""
        registers, statements = [], []
        for number, stage in enumerate(self.plan.stages):
            value = register(f"value{number}", 1, str(stage.reduction.dtype))
            registers.append(value)
            statements.append(self.reduce_along(stage, value, row))
            self.values[stage.reduction.op] = lambda _, value=value: load(value, [0])  # type: ignore[misc]
        aside = [self.aside] if self.aside is not None else []
        return allocate([*registers, *aside], [*statements, self.put_along(row)])

    def reduce_along(self, stage: Stage, value: tirx.Buffer, row: list[tirx.Expr]) -> tirx.Stmt:
        """One value of one row."""
        extents, dtype = self.reduced[stage], str(value.dtype)
        looked_at = [self.terms[stage]]
        if stage.walk is not None:
            looked_at.append(load(*self.kept_place(self.kept_at(stage, self.place, self.over[stage]), ZERO)))
        groups = self.merged(looked_at, self.over[stage], extents)
        *slow, fast = [math.prod(extents[axis] for axis in group) for group in groups]
        lanes = min(self.lanes, 1 << max(fast.bit_length() - 1, 0))
        chains = CHAINS if fast >= lanes * CHAINS else 1
        partial = [register(f"partial{chain}", lanes, dtype) for chain in range(chains)]
        total = register("total", lanes, dtype)

        def step(to: tirx.Buffer, outer: list[tirx.Expr], begin: tirx.Expr | int, width: int) -> tirx.Stmt:
            return self.step(
                stage, to, width, lambda _: row, lambda lane: unmerge([*outer, begin + lane], groups, extents)
            )

        def run(outer: list[tirx.Expr], begin: tirx.Expr | int, count: int) -> tirx.Stmt:
            def vectors(v: tirx.Expr) -> tirx.Stmt:
                first = (begin + v) * chains
                return sequence(step(p, outer, (first + chain) * lanes, lanes) for chain, p in enumerate(partial))

            return sequence(
                [
                    *(self.clear(stage, each, lanes) for each in partial),
                    serial(count, vectors, "vector"),
                    *(
                        self.combine(stage, partial[chain], partial[chain + half], lanes)
                        for half in _halves(chains)
                        for chain in range(half)
                    ),
                    self.combine(stage, total, partial[0], lanes),
                ]
            )

        def walk(outer: list[tirx.Expr]) -> tirx.Stmt:
            runs, left = divmod(fast // (chains * lanes), RUN)
            parts = [serial(runs, lambda r: run(outer, r * RUN, RUN), "run")] if runs else []
            if left:
                parts.append(run(outer, runs * RUN, left))
            done = (runs * RUN + left) * chains * lanes
            parts += [step(total, outer, begin, width) for begin, width in _pieces(done, fast, lanes)]
            return sequence(parts)

        return allocate(
            [*partial, total],
            [
                self.clear(stage, total, lanes),
                nest(slow, walk, "k"),
                *(self.combine(stage, total, total, half, half) for half in _halves(lanes)),
                store(value, [0], load(total, [0])),
            ],
        )

    def put_along(self, row: list[tirx.Expr]) -> tirx.Stmt:
        """Store one row of the result."""
        extents = [self.extents[axis] for axis in self.along]
        groups = self.merged(
            [self.general, load(self.result, self.place)], [self.place[axis] for axis in self.along], extents
        )
        *slow, fast = [math.prod(extents[axis] for axis in group) for group in groups] or [1]

        def put(outer: list[tirx.Expr], begin: tirx.Expr | int, width: int) -> tirx.Stmt:
            def at(lane: tirx.Expr) -> list[tirx.Expr]:
                place = list(row)
                for axis, index in zip(self.along, unmerge([*outer, begin + lane], groups, extents), strict=True):
                    place[axis] = index
                return place

            return self.put(width, at if groups else lambda _: row)

        def vectors(outer: list[tirx.Expr]) -> tirx.Stmt:
            whole = fast // self.lanes
            parts = [serial(whole, lambda v: put(outer, v * self.lanes, self.lanes), "vector")] if whole else []
            parts += [put(outer, begin, width) for begin, width in _pieces(whole * self.lanes, fast, self.lanes)]
            return sequence(parts)

        return nest(slow, vectors, "i")

    # Neighbouring rows in the lanes.

    def neighbouring_rows(self) -> tuple[tirx.Stmt, int]:
        """Loops over vectors of rows, and the extent of the outermost."""
        extents = [self.extents[axis] for axis in self.across]
        groups = self.merged(
            [self.general, *self.terms.values(), load(self.result, self.place)],
            [self.place[axis] for axis in self.across],
            extents,
        )

        def some_rows(position: list[tirx.Expr], width: int) -> tirx.Stmt:
            *outer, first = position

            def row(lane: tirx.Expr) -> list[tirx.Expr]:
                return self.row_place(unmerge([*outer, first + lane], groups, extents))

            registers, statements = [], []
            if self.plan.keeps_aside:
                self.aside = self.aside_of(width)
                registers.append(self.aside)
            for number, stage in enumerate(self.plan.stages):
                value = register(f"value{number}", width, str(stage.reduction.dtype))
                registers.append(value)
                statements.append(self.reduce_across(stage, value, width, row))
                self.values[stage.reduction.op] = lambda lane, value=value: load(value, [lane])  # type: ignore[misc]
            return allocate(registers, [*statements, self.put_across(width, row)])

        return vector_loops([math.prod(extents[axis] for axis in group) for group in groups], self.lanes, some_rows)

    def reduce_across(self, stage: Stage, total: tirx.Buffer, width: int, row: At) -> tirx.Stmt:
        """One value of each of some rows."""
        *slow, fast = self.reduced[stage]

        def steps(to: tirx.Buffer, outer: list[tirx.Expr], begin: tirx.Expr | int, count: int) -> tirx.Stmt:
            return serial(count, lambda k: self.step(stage, to, width, row, lambda _: [*outer, begin + k]), "k")

        if math.prod(slow) == 1 and fast <= RUN:
            return sequence([self.clear(stage, total, width), steps(total, [ZERO] * len(slow), 0, fast)])
        partial = register("partial", width, str(total.dtype))

        def run(outer: list[tirx.Expr], begin: tirx.Expr | int, count: int) -> tirx.Stmt:
            return sequence(
                [
                    self.clear(stage, partial, width),
                    steps(partial, outer, begin, count),
                    self.combine(stage, total, partial, width),
                ]
            )

        def walk(outer: list[tirx.Expr]) -> tirx.Stmt:
            runs, left = divmod(fast, RUN)
            parts = [serial(runs, lambda r: run(outer, r * RUN, RUN), "run")] if runs else []
            return sequence([*parts, *([run(outer, runs * RUN, left)] if left else [])])

        return allocate([partial], [self.clear(stage, total, width), nest(slow, walk, "k")])

    def put_across(self, width: int, row: At) -> tirx.Stmt:
        """Store some rows of the result."""

        def elements(indices: list[tirx.Expr]) -> tirx.Stmt:
            def at(lane: tirx.Expr) -> list[tirx.Expr]:
                place = row(lane)
                for axis, index in zip(self.along, indices, strict=True):
                    place[axis] = index
                return place

            return self.put(width, at)

        return nest([self.extents[axis] for axis in self.along], elements, "i")


def _halves(count: int) -> list[int]:
    """The sizes of the upper halves when a power of two is folded to one: 8 gives 4, 2, 1."""
    return [count >> fold for fold in range(1, count.bit_length())]


def _pieces(begin: int, end: int, lanes: int) -> list[tuple[int, int]]:
    """Vectors, each at most half as long as the one before once they are not whole, that cover a range."""
    pieces: list[tuple[int, int]] = []
    while begin < end:
        width = min(lanes, 1 << ((end - begin).bit_length() - 1))
        pieces.append((begin, width))
        begin += width
    return pieces
