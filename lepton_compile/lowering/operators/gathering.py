"""Operators whose indices are data: gathers, and scatters turned around into gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import cast, dtype_of, load, normalise_axis, shape_of
from lepton_compile.lowering.operators.reduction import maximum, minimum, product
from lepton_compile.lowering.operators.registry import Operation, operator


def from_the_front(index: tirx.Expr, size: int, known: npt.NDArray[Any] | None = None) -> tirx.Expr:
    """An index of data as int32, negative ones counted from the end; `known`: its values if they are constants."""
    narrow = cast(index, "int32")
    if known is not None and known.size and int(known.min()) >= 0:
        return narrow
    return let(narrow, lambda v: tirx.Select(v < 0, v + size, v))


def within(index: tirx.Expr, size: int, known: npt.NDArray[Any] | None = None) -> tirx.Expr:
    """`from_the_front`, and never outside the data, so that it can be loaded from.

    That indices are in range is a requirement on elements; the padding lanes of a blocked tensor may hold anything.
    """
    at = from_the_front(index, size, known)
    return at if known is not None else tirx.max(0, tirx.min(at, size - 1))


def progression(values: npt.NDArray[Any], size: int) -> tuple[int, int] | None:
    """First term and step where constant indices are equally spaced, so that no load is needed to know them."""
    flat = np.where(values.ravel() < 0, values.ravel() + size, values.ravel()).astype(np.int64)
    if flat.size == 1:
        return int(flat[0]), 0
    steps = np.diff(flat)
    return (int(flat[0]), int(steps[0])) if values.ndim == 1 and flat.size and (steps == steps[0]).all() else None


@operator("Gather")
def gather(node: Operation, x: te.Tensor, indices: te.Tensor) -> te.Tensor:
    """Slices of `x` along an axis, at the indices given."""
    shape, at = shape_of(x), shape_of(indices)
    axis = normalise_axis(node.attribute("axis", 0), len(shape))
    known = node.known(1)
    regular = progression(known, shape[axis]) if known is not None else None

    def element(*i: tirx.Expr) -> tirx.Expr:
        place = i[axis : axis + len(at)]
        if regular is not None:
            first, step = regular
            index = place[0] * step + first if step else tirx.const(first, "int32")
        else:
            index = within(load(indices, *place), shape[axis], known)
        return load(x, *i[:axis], index, *i[axis + len(at) :])

    return te.compute((*shape[:axis], *at, *shape[axis + 1 :]), element, name="gather")


@operator("GatherElements")
def gather_elements(node: Operation, x: te.Tensor, indices: te.Tensor) -> te.Tensor:
    """The element whose index along one axis is data."""
    shape = shape_of(x)
    axis = normalise_axis(node.attribute("axis", 0), len(shape))

    def element(*i: tirx.Expr) -> tirx.Expr:
        return load(x, *i[:axis], within(load(indices, *i), shape[axis], node.known(1)), *i[axis + 1 :])

    return te.compute(shape_of(indices), element, name="gather_elements")


@operator("GatherND")
def gather_nd(node: Operation, x: te.Tensor, indices: te.Tensor) -> te.Tensor:
    """Slices of `x` at index tuples, which are the last axis of `indices`."""
    shape, at = shape_of(x), shape_of(indices)
    batch, depth, outer = node.attribute("batch_dims", 0), at[-1], len(at) - 1

    def element(*i: tirx.Expr) -> tirx.Expr:
        tuples = [
            within(load(indices, *i[:outer], number), shape[batch + number], node.known(1)) for number in range(depth)
        ]
        return load(x, *i[:batch], *tuples, *i[outer:])

    return te.compute((*at[:-1], *shape[batch + depth :]), element, name="gather_nd")


@operator("OneHot")
def one_hot(node: Operation, indices: te.Tensor, _: te.Tensor, values: te.Tensor) -> te.Tensor:
    """`values[1]` at the index given along a new axis, `values[0]` elsewhere."""
    at, depth = shape_of(indices), int(node.constant(1, "the depth").ravel()[0])
    axis = normalise_axis(node.attribute("axis", -1), len(at) + 1)

    def element(*i: tirx.Expr) -> tirx.Expr:
        index = cast(load(indices, *i[:axis], *i[axis + 1 :]), "int32")
        hot = let(index, lambda v: tirx.Select(v < 0, v + depth, v)) == i[axis]
        return tirx.Select(hot, load(values, 1), load(values, 0))

    return te.compute((*at[:axis], depth, *at[axis:]), element, name="one_hot")


Hit = Callable[[Sequence[tirx.Expr], Sequence[tirx.Expr]], tirx.Expr]
Place = Callable[[Sequence[tirx.Expr], Sequence[tirx.Expr]], list[tirx.Expr]]

_REDUCERS = {"add": te.sum, "mul": product, "max": maximum, "min": minimum}
_NEUTRAL = {"add": 0, "mul": 1}
_COMBINATIONS: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": lambda a, b: tirx.Select(a < b, b, a),
    "min": lambda a, b: tirx.Select(b < a, b, a),
}


def scattered(
    x: te.Tensor,
    updates: te.Tensor,
    reduction: str,
    extents: Sequence[int],
    reaches: Hit,
    place: Place,
) -> te.Tensor:
    """`x` with updates put in.

    A scatter writes where its indices say; kernels here compute one element of the result each. So every element looks
    through the updates that may reach it: the last one that does replaces it (`reduction` "none"), or all of them are
    reduced into it.

    Args:
        x: The tensor that is updated.
        updates: The values.
        reduction: "none", "add", "mul", "max" or "min".
        extents: How far to look along each axis of the search.
        reaches: Whether the update at an index of the search reaches the element at an index of the result.
        place: The index of that update.
    """
    shape, dtype = shape_of(x), dtype_of(x)
    search = [te.reduce_axis((0, extent), name=f"k{axis}") for axis, extent in enumerate(extents)]
    at = [variable.var for variable in search]

    if reduction != "none":
        reducer, combine = _REDUCERS[reduction], _COMBINATIONS[reduction]

        def contribution(*i: tirx.Expr) -> tirx.Expr:
            # An element that is no update's must not change: the element itself is neutral to max and min.
            neutral = tirx.const(_NEUTRAL[reduction], dtype) if reduction in _NEUTRAL else load(x, *i)
            return reducer(tirx.if_then_else(reaches(i, at), load(updates, *place(i, at)), neutral), axis=search)

        reduced = te.compute(shape, contribution, name="scatter_reduce")
        return te.compute(shape, lambda *i: combine(load(x, *i), load(reduced, *i)), name="scatter")

    flat = tirx.const(0, "int32")
    for variable, extent in zip(at, extents, strict=True):
        flat = flat * extent + variable
    last = te.compute(
        shape,
        lambda *i: maximum(tirx.if_then_else(reaches(i, at), flat, tirx.const(-1, "int32")), axis=search),
        name="scatter_last",
    )

    def element(*i: tirx.Expr) -> tirx.Expr:
        def chosen(found: tirx.Expr) -> tirx.Expr:
            position, rest = [], found
            for extent in reversed(extents):
                position.append(tirx.floormod(rest, extent))
                rest = tirx.floordiv(rest, extent)
            return tirx.if_then_else(found >= 0, load(updates, *place(i, position[::-1])), load(x, *i))

        return chosen(load(last, *i))

    return te.compute(shape, element, name="scatter")


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Operation, x: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
    """Updates put at indices along one axis; each element looks along that axis of the indices."""
    shape, at = shape_of(x), shape_of(indices)
    axis = normalise_axis(node.attribute("axis", 0), len(shape))

    def place(i: Sequence[tirx.Expr], k: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        return [*i[:axis], k[0], *i[axis + 1 :]]

    def reaches(i: Sequence[tirx.Expr], k: Sequence[tirx.Expr]) -> tirx.Expr:
        hit = from_the_front(load(indices, *place(i, k)), shape[axis], node.known(1)) == i[axis]
        within = [i[other] < at[other] for other in range(len(shape)) if other != axis and at[other] < shape[other]]
        return tirx.if_then_else(tirx.all(*within), hit, tirx.const(False, "bool")) if within else hit

    return scattered(x, updates, node.attribute("reduction", "none"), [at[axis]], reaches, place)


@operator("ScatterND")
def scatter_nd(node: Operation, x: te.Tensor, indices: te.Tensor, updates: te.Tensor) -> te.Tensor:
    """Slices put at index tuples, which are the last axis of `indices`; each element looks through all of them."""
    shape, at = shape_of(x), shape_of(indices)
    depth, outer = at[-1], at[:-1]

    def reaches(i: Sequence[tirx.Expr], k: Sequence[tirx.Expr]) -> tirx.Expr:
        return tirx.all(
            *(
                from_the_front(load(indices, *k, number), shape[number], node.known(1)) == i[number]
                for number in range(depth)
            )
        )

    def place(i: Sequence[tirx.Expr], k: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        return [*k, *i[depth:]]

    if not math.prod(outer):
        return x
    return scattered(x, updates, node.attribute("reduction", "none"), outer or (1,), reaches, place)


@operator("CumSum")
def cumulative_sum(node: Operation, x: te.Tensor, _: te.Tensor) -> te.Tensor:
    """Sums of all elements up to each one: a reduction whose terms past it are zero, so that elements stay apart."""
    shape, dtype = shape_of(x), dtype_of(x)
    axis = normalise_axis(node.integers(1, "the axis")[0], len(shape))
    exclusive, backwards = node.attribute("exclusive", 0), node.attribute("reverse", 0)
    k = te.reduce_axis((0, shape[axis]), name="k")

    def element(*i: tirx.Expr) -> tirx.Expr:
        here, there = (i[axis], k.var) if backwards else (k.var, i[axis])
        counted = here < there if exclusive else here <= there
        return te.sum(tirx.Select(counted, load(x, *i[:axis], k.var, *i[axis + 1 :]), tirx.const(0, dtype)), axis=[k])

    return te.compute(shape, element, name="cumulative_sum")
