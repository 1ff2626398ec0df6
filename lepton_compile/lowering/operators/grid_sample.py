"""GridSample: the input read at coordinates that are data (spatial transformer networks, Jaderberg et al., 2015)."""

from __future__ import annotations

import itertools
from functools import reduce

from tvm import te, tirx

from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import arithmetic_type, cast, dtype_of, load, shape_of
from lepton_compile.lowering.operators.registry import Operation, operator


def _constant(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def _reflected(x: tirx.Expr, low: float, high: float) -> tirx.Expr:
    """X mirrored at both ends until it lies within them: a triangle wave."""
    span = high - low
    if span == 0:
        return _constant(low)
    twice = _constant(2 * span)

    def wave(v: tirx.Expr) -> tirx.Expr:
        phase = v - tirx.floor(v / twice) * twice
        return let(phase, lambda p: tirx.Select(p > _constant(span), twice - p, p) + _constant(low))

    return let(x - _constant(low), wave)


def _bounded(x: tirx.Expr, size: int, padding: str, aligned: bool) -> tirx.Expr:
    """A coordinate brought into the input, if the padding says so."""
    if padding == "reflection":
        x = _reflected(x, 0.0, size - 1.0) if aligned else _reflected(x, -0.5, size - 0.5)
    if padding == "zeros":
        return x
    return tirx.max(tirx.min(x, _constant(size - 1)), _constant(0))


def _taps(x: tirx.Expr, mode: str) -> list[tuple[tirx.Expr, tirx.Expr | None]]:
    """Places along one axis, still floats, and their weights."""
    if mode == "nearest":
        return [(tirx.nearbyint(x), None)]
    floor = tirx.floor(x)
    t = x - floor
    if mode == "linear":
        return [(floor, _constant(1) - t), (floor + _constant(1), t)]
    a = -0.75

    def near(d: tirx.Expr) -> tirx.Expr:
        return (_constant(a + 2) * d - _constant(a + 3)) * d * d + _constant(1)

    def far(d: tirx.Expr) -> tirx.Expr:
        return ((_constant(a) * d - _constant(5 * a)) * d + _constant(8 * a)) * d - _constant(4 * a)

    s = _constant(1) - t
    weights = [far(t + _constant(1)), near(t), near(s), far(s + _constant(1))]
    return [(floor + _constant(shift), weight) for shift, weight in zip((-1, 0, 1, 2), weights, strict=True)]


@operator("GridSample")
def grid_sample(node: Operation, x: te.Tensor, grid: te.Tensor) -> te.Tensor:
    """The input (N, C, spatial...) at the places of a grid (N, spatial..., rank), -1 to 1 along every axis, x first."""
    shape, places, dtype = shape_of(x), shape_of(grid), dtype_of(x)
    spatial = len(shape) - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        node.attribute("mode", "linear"), node.attribute("mode", "linear")
    )
    padding, aligned = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    kind = arithmetic_type(dtype)

    def coordinate(i: tuple[tirx.Expr, ...], axis: int) -> tirx.Expr:
        size = shape[2 + axis]
        value = cast(load(grid, i[0], *i[2:], spatial - 1 - axis), "float32")
        if aligned:
            place = (value + _constant(1)) * _constant((size - 1) / 2)
        else:
            place = ((value + _constant(1)) * _constant(size) - _constant(1)) / _constant(2)
        # Cubic taps are brought in one by one: the coordinate between them must not be.
        return place if mode == "cubic" else _bounded(place, size, padding, aligned)

    def element(*i: tirx.Expr) -> tirx.Expr:
        terms = []
        for chosen in itertools.product(*(_taps(coordinate(i, axis), mode) for axis in range(spatial))):
            indices, inside = [], []
            for axis, (place, _) in enumerate(chosen):
                size = shape[2 + axis]
                bounded = _bounded(place, size, padding, aligned)
                inside += [place >= _constant(0), place <= _constant(size - 1)]
                indices.append(tirx.max(tirx.min(bounded, _constant(size - 1)), _constant(0)).astype("int32"))
            value = cast(load(x, i[0], i[1], *indices), kind)
            if padding == "zeros":
                value = tirx.Select(tirx.all(*inside), value, tirx.const(0, kind))
            weights = [weight for _, weight in chosen if weight is not None]
            terms.append(value * cast(reduce(lambda p, q: p * q, weights), kind) if weights else value)
        return cast(reduce(lambda p, q: p + q, terms), dtype)

    return te.compute((shape[0], shape[1], *places[1:-1]), element, name="grid_sample")
