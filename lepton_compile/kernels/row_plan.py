"""Which reductions one kernel can compute on the way to a tensor: those that give one value for each of its rows.

Softmax needs a maximum and a sum of its row, layer normalisation a mean and a variance. Written as tensor expressions,
their elements demand a reduction's result at an index, and that reduction's terms demand another's. The axes of the
tensor that these indices depend on tell its rows apart; the others run along a row. So a row is not a list of operators
but what the indices say, whatever the operators were and wherever fusion drew its lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, sym, te, tirx

from lepton_compile.kernels.expressions import (
    Load,
    Reduction,
    count_operations,
    evaluate,
    identity,
    is_inlined,
    is_reduction,
    variables_outside_loads,
)
from lepton_compile.kernels.kernel import shape_of
from lepton_compile.kernels.loops import itemsize

# Pairs of an axis of a tensor and the reduced axis that walks it.
Walk = tuple[tuple[int, int], ...]

# So many operations have to be saved for an intermediate value to be written and read again.
KEPT_OPERATIONS = 6
# And so many bytes of a row may be kept elsewhere than where the output will be.
KEPT_BYTES = 16 * 1024


@dataclass(frozen=True, eq=False)
class Stage:
    """One value of each row: a reduction, at the place where the row demands it.

    Attributes:
        reduction: The reduction.
        at: Its indices, in the variables of the output's axes.
        walk: Where the terms of this stage are computed from the plan's `kept` tensor: the reduced axis that walks each
            axis of it that runs along a row.
    """

    reduction: te.Tensor
    at: tuple[tirx.Expr, ...]
    walk: Walk | None = None


@dataclass(frozen=True)
class RowPlan:
    """How a tensor is computed row by row.

    Attributes:
        output: The tensor.
        variables: The variables of its axes; of an axis of one element, the constant 0.
        rows: The axes that tell rows apart.
        stages: What each row is reduced to, each computed from the row and from the values before it.
        kept: An intermediate tensor of the output's shape that takes long to compute and is needed more than once: it
            is written where the output will be, or aside if it is of another type. None if there is no such tensor.
    """

    output: te.Tensor
    variables: tuple[tirx.Expr, ...]
    rows: frozenset[int]
    stages: tuple[Stage, ...]
    kept: te.Tensor | None

    def is_kept(self, tensor: te.Tensor) -> bool:
        """Whether this is the intermediate tensor that is kept."""
        return self.kept is not None and tensor.op == self.kept.op

    @property
    def keeps_aside(self) -> bool:
        """Whether what is kept cannot lie where the output will be."""
        return self.kept is not None and self.kept.dtype != self.output.dtype

    def inlined(self, tensor: te.Tensor) -> bool:
        """Whether a tensor's value is computed where it is used."""
        return is_inlined(tensor) and not self.is_kept(tensor)


def plan_rows(output: te.Tensor, in_memory: Callable[[te.Tensor], bool]) -> RowPlan | te.Tensor:
    """How one kernel computes a tensor and all reductions on the way to it.

    Args:
        output: A reduction, or a tensor that is computed from some.
        in_memory: Whether a tensor is in memory already.

    Returns:
        The plan; or a reduction that has to be in memory first, because not every row demands it at one place of its
        own.
    """
    return _Planner(output, in_memory).plan()


def row_leaves(plan: RowPlan) -> list[te.Tensor]:
    """The tensors that a plan's kernel loads, each once, in the order in which they are met."""
    stages = {stage.reduction.op for stage in plan.stages}
    found: list[te.Tensor] = []
    seen: set[te.Operation] = set()

    def visit(tensor: te.Tensor) -> None:
        for source in tensor.op.input_tensors:
            if source.op in seen:
                continue
            seen.add(source.op)
            if is_inlined(source) or source.op in stages:
                visit(source)
            else:
                found.append(source)

    visit(plan.output)
    return found


class _ConflictError(Exception):
    """A reduction that is demanded at more than one place of a row."""

    def __init__(self, reduction: te.Tensor) -> None:
        self.reduction = reduction


class _Planner:
    def __init__(self, output: te.Tensor, in_memory: Callable[[te.Tensor], bool]) -> None:
        self.output = output
        self.in_memory = in_memory
        self.analyzer = sym.Analyzer()
        self.variables = tuple(self._variable(f"i{axis}", size) for axis, size in enumerate(shape_of(output)))
        self.walking = {identity(variable) for variable in self.variables}
        self.demands: dict[te.Operation, tuple[tirx.Expr, ...]] = {}
        self.stages: list[te.Tensor] = []
        self.over: dict[te.Operation, list[tirx.Expr]] = {}

    def plan(self) -> RowPlan | te.Tensor:
        try:
            evaluate(self.output, self.variables, self._load)
        except _ConflictError as conflict:
            return conflict.reduction
        sizes = shape_of(self.output)
        demanded = {name for at in self.demands.values() for index in at for name in variables_outside_loads(index)}
        rows = frozenset(axis for axis, v in enumerate(self.variables) if identity(v) in demanded)
        count = math.prod(sizes[axis] for axis in rows)
        for reduction in self.stages:
            if math.prod(shape_of(reduction)) < count:  # several rows share it, and would compute it again
                return reduction
        kept, walks = self._kept(rows)
        stages = (Stage(each, self.demands[each.op], walks.get(each.op)) for each in self.stages)
        return RowPlan(self.output, self.variables, rows, tuple(stages), kept)

    def _variable(self, name: str, size: int) -> tirx.Expr:
        if size == 1:
            return tirx.const(0, "int32")
        variable = tirx.Var(name, "int32")
        self.analyzer.bind(variable, ir.Range(0, size))
        return variable

    def _load(self, tensor: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
        if is_reduction(tensor) and not self.in_memory(tensor):
            self._demand(tensor, at)
        return _unknown(tensor, at)

    def _demand(self, tensor: te.Tensor, at: Sequence[tirx.Expr]) -> None:
        """Note where a reduction is demanded, and what its terms demand; it comes after those."""
        zero = tirx.const(0, "int32")
        place = tuple(
            zero if size == 1 else self.analyzer.simplify(index)
            for index, size in zip(at, shape_of(tensor), strict=True)
        )
        known = self.demands.get(tensor.op)
        if known is not None:
            if not all(tvm_ffi.structural_equal(a, b) for a, b in zip(known, place, strict=True)):
                raise _ConflictError(tensor)
            return
        if any(name not in self.walking for index in place for name in variables_outside_loads(index)):
            raise _ConflictError(tensor)
        self.demands[tensor.op] = place
        reduce = Reduction(tensor)
        over = [self._variable(f"k{axis}", int(extent)) for axis, extent in enumerate(reduce.extents)]
        self.over[tensor.op] = over
        reduce.term(place, over, self._load)
        self.stages.append(tensor)

    def _kept(self, rows: frozenset[int]) -> tuple[te.Tensor | None, dict[te.Operation, Walk]]:
        """The tensor that saves most if it is kept, and how the stages that use it walk it."""
        best: tuple[te.Tensor | None, dict[te.Operation, Walk]] = None, {}
        most = KEPT_OPERATIONS - 1
        own = _computed_from(self.output)
        inner = {tensor.op for stage in self.stages for tensor in _computed_from(stage)}
        length = math.prod(size for axis, size in enumerate(shape_of(self.output)) if axis not in rows)
        for tensor in own:
            if shape_of(tensor) != shape_of(self.output) or tensor.op not in inner:
                continue
            if tensor.dtype != self.output.dtype and length * itemsize(str(tensor.dtype)) > KEPT_BYTES:
                continue
            walks = self._walks_of(tensor, rows)
            saved = count_operations(evaluate(tensor, self.variables, _unknown)) * len(walks)
            if saved > most:
                best, most = (tensor, walks), saved
        return best

    def _walks_of(self, tensor: te.Tensor, rows: frozenset[int]) -> dict[te.Operation, Walk]:
        """How each stage that uses a tensor walks it; none if one, or the output, strays from the row."""

        def accesses(compute: Callable[[Load, Callable[[te.Tensor], bool]], object]) -> list[list[tirx.Expr]]:
            found: list[list[tirx.Expr]] = []

            def record(leaf: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
                if leaf.op == tensor.op:
                    found.append(at)
                return _unknown(leaf, at)

            compute(record, lambda each: is_inlined(each) and each.op != tensor.op)
            return found

        sizes = shape_of(self.output)
        walks: dict[te.Operation, Walk] = {}
        for stage in self.stages:
            reduce, place = Reduction(stage), self.demands[stage.op]
            over = {identity(k): axis for axis, k in enumerate(self.over[stage.op]) if type(k) is tirx.Var}
            for at in accesses(
                lambda load, inlined: reduce.term(place, self.over[stage.op], load, inlined)  # noqa: B023
            ):
                walk = {}
                for axis, index in enumerate(map(self.analyzer.simplify, at)):
                    if sizes[axis] == 1:
                        continue
                    if axis in rows:
                        if identity(index) != identity(self.variables[axis]):
                            return {}
                    elif identity(index) not in over or int(reduce.extents[over[identity(index)]]) != sizes[axis]:
                        return {}
                    else:
                        walk[axis] = over[identity(index)]
                ordered = tuple(sorted(walk.items()))
                if len(set(walk.values())) != len(walk) or walks.setdefault(stage.op, ordered) != ordered:
                    return {}
        for at in accesses(lambda load, inlined: evaluate(self.output, self.variables, load, inlined)):
            if any(
                size > 1 and identity(i) != identity(v) for i, v, size in zip(at, self.variables, sizes, strict=True)
            ):
                return {}
        return walks


def _unknown(tensor: te.Tensor, at: list[tirx.Expr]) -> tirx.Expr:
    return tirx.Var("value", str(tensor.dtype))


def _computed_from(tensor: te.Tensor) -> list[te.Tensor]:
    """The inlined tensors that one is computed from without another reduction between."""
    found: list[te.Tensor] = []
    seen: set[te.Operation] = set()

    def visit(current: te.Tensor) -> None:
        for source in current.op.input_tensors:
            if source.op not in seen and is_inlined(source):
                seen.add(source.op)
                found.append(source)
                visit(source)

    visit(tensor)
    return found
