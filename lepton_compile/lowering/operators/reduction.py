"""Reductions: one te.compute with a reduction for its body, between computes that prepare and finish elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import (
    arithmetic_type,
    cast,
    convert,
    dtype_of,
    is_float,
    load,
    normalise_axis,
    pointwise,
    shape_of,
    widen,
)
from lepton_compile.lowering.operators.registry import Operation, operator
from lepton_compile.lowering.operators.shape import reshape_to

Reducer = Callable[..., tirx.Expr]


def _lowest(dtype: str) -> tirx.Expr:
    return tirx.const(-math.inf, dtype) if is_float(dtype) else tirx.min_value(dtype)


def _highest(dtype: str) -> tirx.Expr:
    return tirx.const(math.inf, dtype) if is_float(dtype) else tirx.max_value(dtype)


# te.max starts from the lowest finite number, which is wrong for a row of -inf; these start from the infinities. NaN
# fails the comparison and is passed over, which is what onnxruntime does with all NaN but a leading one.
maximum: Reducer = te.comm_reducer(lambda a, b: tirx.Select(a < b, b, a), _lowest, name="maximum")
minimum: Reducer = te.comm_reducer(lambda a, b: tirx.Select(b < a, b, a), _highest, name="minimum")
product: Reducer = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")


def reduce_axes(
    x: te.Tensor,
    axes: Sequence[int],
    reducer: Reducer = te.sum,
    *,
    keepdims: bool = True,
    of: Callable[[tirx.Expr], tirx.Expr] = lambda v: v,
    name: str = "reduce",
) -> te.Tensor:
    """`reducer` over `axes` (counted from the front) of `of` of the elements; no axes leave the tensor's shape."""
    shape = shape_of(x)
    if not axes:
        return te.compute(shape, lambda *i: of(load(x, *i)), name=name)
    variables = {axis: te.reduce_axis((0, shape[axis]), name=f"k{axis}") for axis in sorted(axes)}
    kept = [axis for axis in range(len(shape)) if axis not in variables]
    result = [1 if axis in variables else size for axis, size in enumerate(shape)]

    def element(*i: tirx.Expr) -> tirx.Expr:
        place = dict(zip(kept, [i[axis] for axis in kept] if keepdims else i, strict=True))
        value = load(x, *(variables[axis].var if axis in variables else place[axis] for axis in range(len(shape))))
        return reducer(of(value), axis=list(variables.values()))

    return te.compute(result if keepdims else [shape[axis] for axis in kept], element, name=name)


def mean_over(x: te.Tensor, axes: Sequence[int], *, keepdims: bool = True) -> te.Tensor:
    """The mean over `axes`."""
    count = math.prod(shape_of(x)[axis] for axis in axes)
    total = reduce_axes(x, axes, keepdims=keepdims, name="sum")
    return pointwise(lambda v: v * tirx.const(1 / count, dtype_of(x)), total, name="mean")


def variance_over(x: te.Tensor, mean: te.Tensor, axes: Sequence[int]) -> te.Tensor:
    """The variance over `axes` around a mean that kept them, in two passes: one pass cancels."""
    deviation = pointwise(lambda v, m: v - m, x, mean, name="deviation")
    count = math.prod(shape_of(x)[axis] for axis in axes)
    squares = reduce_axes(deviation, axes, of=square, name="squares")
    return pointwise(lambda v: v * tirx.const(1 / count, dtype_of(x)), squares, name="variance")


def square(x: tirx.Expr) -> tirx.Expr:
    """X ** 2."""
    return let(x, lambda v: v * v)


def reduced_axes(node: Operation, x: te.Tensor) -> tuple[int, ...]:
    """The axes that a Reduce operator names, from the front; all where it names none and does not say otherwise."""
    rank = len(x.shape)
    axes = node.attribute("axes")
    if axes is None and len(node.constants) > 1:
        # An input that is missing is None in both tuples; the caller has checked that one given at run time is refused.
        axes = node.integers(1, "the list of axes") if node.known(1) is not None else None
    if axes is None or len(axes) == 0:
        return () if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({normalise_axis(int(axis), rank) for axis in axes}))


def _logarithm_of_sum(x: te.Tensor, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
    return pointwise(vector_math.log, reduce_axes(x, axes, keepdims=keepdims, name="sum"), name="log_sum")


def _log_sum_exp(x: te.Tensor, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
    """M + ln(sum(exp(x - m))), m the maximum; an infinite maximum is left out, as inf - inf would be NaN."""
    zero, infinity = tirx.const(0, dtype_of(x)), tirx.const(math.inf, dtype_of(x))

    def finite(m: tirx.Expr) -> tirx.Expr:
        return let(m, lambda v: tirx.Select(tirx.abs(v) < infinity, v, zero))

    largest = reduce_axes(x, axes, maximum, name="max")
    shifted = pointwise(lambda v, m: vector_math.exp(v - finite(m)), x, largest, name="exp")
    total = reduce_axes(shifted, axes, keepdims=keepdims, name="sum")
    peak = largest if keepdims else reshape_to(largest, shape_of(total))
    return pointwise(lambda m, s: finite(m) + vector_math.log(s), peak, total, name="log_sum_exp")


def _integer_mean(x: te.Tensor, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
    count = math.prod(shape_of(x)[axis] for axis in axes)
    total = reduce_axes(x, axes, keepdims=keepdims, name="sum")
    return pointwise(lambda v: tirx.truncdiv(v, tirx.const(count, dtype_of(x))), total, name="mean")


def _float_reduction(op_type: str, x: te.Tensor, axes: tuple[int, ...], keepdims: bool) -> te.Tensor:
    """Reductions whose value is a float: of a float tensor."""
    if op_type == "ReduceMean":
        return mean_over(x, axes, keepdims=keepdims)
    if op_type == "ReduceL2":
        return pointwise(tirx.sqrt, reduce_axes(x, axes, keepdims=keepdims, of=square, name="squares"), name="norm")
    if op_type == "ReduceLogSum":
        return _logarithm_of_sum(x, axes, keepdims)
    return _log_sum_exp(x, axes, keepdims)


_PLAIN: dict[str, tuple[Reducer, Callable[[tirx.Expr], tirx.Expr]]] = {
    "ReduceSum": (te.sum, lambda v: v),
    "ReduceSumSquare": (te.sum, square),
    "ReduceL1": (te.sum, lambda v: v if str(v.expr_ty()).startswith("uint") else tirx.abs(v)),
    "ReduceProd": (product, lambda v: v),
    "ReduceMax": (maximum, lambda v: v),
    "ReduceMin": (minimum, lambda v: v),
}


@operator(*_PLAIN, "ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
def reduction(node: Operation, x: te.Tensor, axes: te.Tensor | None = None) -> te.Tensor:
    """A reduction over the axes named; without any, over all, or none with `noop_with_empty_axes`."""
    if axes is not None:
        node.constant(1, "the list of axes")
    over, keepdims, dtype = reduced_axes(node, x), bool(node.attribute("keepdims", 1)), dtype_of(x)
    if node.op_type in _PLAIN:
        reducer, of = _PLAIN[node.op_type]
        wide = "int8" if dtype == "bool" else arithmetic_type(dtype)
        return convert(reduce_axes(convert(x, wide), over, reducer, keepdims=keepdims, of=of), dtype)
    if not is_float(dtype):
        if node.op_type == "ReduceMean":
            return _integer_mean(x, over, keepdims)
        return convert(_float_reduction(node.op_type, convert(x, "float64"), over, keepdims), dtype)
    return convert(_float_reduction(node.op_type, widen(x), over, keepdims), dtype)


@operator("ArgMax", "ArgMin")
def arg_extremum(node: Operation, x: te.Tensor) -> te.Tensor:
    """The place of the largest or smallest element along an axis, of several the first, or the last if asked.

    Two plain reductions, which vectorise, rather than one over pairs: the extremum, then the first place that equals
    it.
    """
    shape = shape_of(x)
    axis = normalise_axis(node.attribute("axis", 0), len(shape))
    size, last = shape[axis], node.attribute("select_last_index", 0)
    values = widen(x)
    best = reduce_axes(values, [axis], maximum if node.op_type == "ArgMax" else minimum, name="extremum")
    nowhere = tirx.const(-1 if last else size, "int32")

    def place(*i: tirx.Expr) -> tirx.Expr:
        at = (*i[:axis], tirx.const(0, "int32"), *i[axis + 1 :])
        return tirx.Select(load(values, *i) == load(best, *at), i[axis], nowhere)

    places = te.compute(shape, place, name="place")
    keepdims = bool(node.attribute("keepdims", 1))
    found = reduce_axes(places, [axis], maximum if last else minimum, keepdims=keepdims, name="found")
    # Nothing equals the extremum where all is NaN.
    return pointwise(
        lambda v: let(v, lambda v: cast(tirx.Select(v == nowhere, tirx.const(0, "int32"), v), "int64")),
        found,
        name="arg",
    )
