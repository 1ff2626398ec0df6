"""Resize: every element of the result is a weighted sum of elements of the input around a coordinate.

Coordinates are computed in float32, as onnxruntime does, so that rounding at half-way points falls to the same side.
The axes are independent: each has a few taps (an index and a weight as functions of the result's index), and the result
sums over their products. A nearest-neighbour index that integer division can express needs no floats at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import (
    arithmetic_type,
    cast,
    dtype_of,
    is_float,
    load,
    normalise_axis,
    shape_of,
)
from lepton_compile.lowering.operators.registry import Operation, operator

F32 = np.float32
Coordinates = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        size: Elements of the input.
        result: Elements of the result.
        scale: Result per input, as the node gives it.
        roi: Start and end of the region of interest, as fractions (tf_crop_and_resize).
        mode: coordinate_transformation_mode.
    """

    size: int
    result: int
    scale: float
    roi: tuple[float, float]
    mode: str

    def line(self) -> tuple[float, float]:
        """Slope and intercept of the coordinate in the input as a function of the index in the result.

        Raises:
            ValueError: The mode is not one of ONNX's.
        """
        n, m, s = self.size, self.result, self.scale
        match self.mode:
            case "asymmetric":
                return 1 / s, 0.0
            case "half_pixel":
                return 1 / s, 0.5 / s - 0.5
            case "pytorch_half_pixel":
                return (1 / s, 0.5 / s - 0.5) if m > 1 else (0.0, 0.0)
            case "half_pixel_symmetric":
                # The result is centred on the input although its length was rounded.
                offset = n / 2 * (1 - m / (s * n))
                return 1 / s, offset + 0.5 / s - 0.5
            case "align_corners":
                return ((n - 1) / (m - 1), 0.0) if m > 1 else (0.0, 0.0)
            case "tf_crop_and_resize":
                start, end = self.roi
                if m == 1:
                    return 0.0, 0.5 * (start + end) * (n - 1)
                return (end - start) * (n - 1) / (m - 1), start * (n - 1)
        raise ValueError(self.mode)

    def coordinates(self) -> Coordinates:
        """The coordinate of every index of the result, in the order of operations that onnxruntime uses."""
        i, s = np.arange(self.result, dtype=F32), F32(self.scale)
        if self.mode in ("half_pixel", "pytorch_half_pixel") and (self.mode == "half_pixel" or self.result > 1):
            return ((i + F32(0.5)) / s - F32(0.5)).astype(F32)
        if self.mode == "asymmetric":
            return (i / s).astype(F32)
        if self.mode == "half_pixel_symmetric":
            size = F32(self.size)
            offset = size / F32(2) * (F32(1) - F32(self.result) / (s * size))
            return (offset + (i + F32(0.5)) / s - F32(0.5)).astype(F32)
        if self.mode == "align_corners" and self.result > 1:
            return (i * F32(self.size - 1) / F32(self.result - 1)).astype(F32)
        slope, intercept = self.line()
        return (i * F32(slope) + F32(intercept)).astype(F32)


@dataclass(frozen=True)
class Tap:
    """One of the elements along an axis that a result is summed from: its index, and its weight (None for one)."""

    index: tirx.Expr
    weight: tirx.Expr | None = None


_ROUNDING: dict[str, Callable[[Coordinates], npt.NDArray[np.floating]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - F32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + F32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def integer_line(values: Sequence[int]) -> tuple[int, int, int] | None:
    """(a, b, c) with values[i] == (a i + b) // c for every i, if there are such of moderate size.

    Nearest-neighbour indices are the floor of a line whose slope is rational: its denominators are tried in turn.
    """
    count = len(values)
    if count == 1 or all(value == values[0] for value in values):
        return 0, values[0], 1
    target = np.asarray(values, np.int64)
    slope = (values[-1] - values[0]) / (count - 1)
    i = np.arange(count, dtype=np.int64)
    for c in range(1, 2 * count + 2):
        for a in {math.floor(slope * c), math.ceil(slope * c)}:
            # values[i] c <= a i + b < (values[i] + 1) c for all i.
            low, high = int(np.max(target * c - a * i)), int(np.min((target + 1) * c - a * i))
            if low < high:
                return a, (low if not low <= 0 < high else 0), c
    return None


def _clipped(index: tirx.Expr, size: int, used: npt.NDArray[np.floating]) -> tirx.Expr:
    """`index` within the axis; `used` are the values it takes, which show whether either bound is needed."""
    if used.min() < 0:
        index = tirx.max(index, 0)
    return tirx.min(index, size - 1) if used.max() > size - 1 else index


def _selected(i: tirx.Expr, values: Sequence[int]) -> tirx.Expr:
    """values[i] by bisection, for values that follow no line."""
    if all(value == values[0] for value in values):
        return tirx.const(values[0], "int32")
    middle = len(values) // 2
    return tirx.Select(i < middle, _selected(i, values[:middle]), _selected(i - middle, values[middle:]))


def nearest_tap(i: tirx.Expr, axis: Axis, rounding: str) -> list[Tap]:
    """The element nearest to the coordinate."""
    places = np.clip(_ROUNDING[rounding](axis.coordinates()), 0, axis.size - 1).astype(int).tolist()
    line = integer_line(places)
    if line is None:
        return [Tap(_selected(i, places))]
    a, b, c = line
    flat = i if a == 1 else i * a
    flat = flat + b if b else flat
    return [Tap(flat if c == 1 else tirx.floordiv(flat, c))]


def _coordinate(i: tirx.Expr, axis: Axis) -> tirx.Expr:
    """The coordinate as a float32 expression of the index."""
    slope, intercept = axis.line()
    return i.astype("float32") * tirx.const(slope, "float32") + tirx.const(intercept, "float32")


def linear_taps(i: tirx.Expr, axis: Axis) -> list[Tap]:
    """The two neighbours; coordinates outside the input take the border's value."""
    one = tirx.const(1, "float32")
    x = tirx.max(tirx.min(_coordinate(i, axis), tirx.const(axis.size - 1, "float32")), tirx.const(0, "float32"))
    floor = tirx.floor(x)
    low = floor.astype("int32")
    fraction = x - floor
    return [Tap(low, one - fraction), Tap(tirx.min(low + 1, axis.size - 1), fraction)]


def cubic_taps(i: tirx.Expr, axis: Axis, coefficient: float, exclude_outside: bool) -> list[Tap]:
    """Four neighbours, weighted by Keys' cubic convolution ("Cubic Convolution Interpolation", 1981)."""

    def constant(value: float) -> tirx.Expr:
        return tirx.const(value, "float32")

    a = coefficient
    x = _coordinate(i, axis)
    floor = tirx.floor(x)
    t = x - floor
    s = constant(1) - t

    def near(d: tirx.Expr) -> tirx.Expr:
        return (constant(a + 2) * d - constant(a + 3)) * d * d + constant(1)

    def far(d: tirx.Expr) -> tirx.Expr:
        return ((constant(a) * d - constant(5 * a)) * d + constant(8 * a)) * d - constant(4 * a)

    weights = [far(t + constant(1)), near(t), near(s), far(s + constant(1))]
    places = [floor.astype("int32") + shift for shift in (-1, 0, 1, 2)]
    if exclude_outside:
        inside = [
            tirx.Select(tirx.all(place >= 0, place < axis.size), weight, constant(0))
            for place, weight in zip(places, weights, strict=True)
        ]
        total = reduce(lambda p, q: p + q, inside)
        weights = [weight / total for weight in inside]
    return [
        Tap(tirx.max(tirx.min(place, axis.size - 1), 0), weight) for place, weight in zip(places, weights, strict=True)
    ]


def antialiased_taps(i: tirx.Expr, axis: Axis, cubic: float | None, exclude_outside: bool) -> list[Tap]:
    """Linear or cubic weights stretched over as many elements as a smaller result skips, and normalised (as Pillow)."""
    scale = min(axis.scale, 1.0)
    support = (2.0 if cubic is not None else 1.0) / scale
    x = _coordinate(i, axis)
    # Of the 2 support + 1 elements from the first on, those outside the support get no weight.
    first = tirx.ceil(x - tirx.const(support, "float32")).astype("int32")
    count = math.floor(2 * support) + 1
    zero, one = tirx.const(0, "float32"), tirx.const(1, "float32")

    def weight(d: tirx.Expr) -> tirx.Expr:
        if cubic is None:
            return tirx.max(one - d, zero)
        a = tirx.const(cubic, "float32")
        near = ((a + 2.0) * d - (a + 3.0)) * d * d + one
        far = ((a * d - a * 5.0) * d + a * 8.0) * d - a * 4.0
        return tirx.Select(d < one, near, tirx.Select(d < tirx.const(2, "float32"), far, zero))

    places = [first + shift for shift in range(count)]
    weights = [weight(tirx.abs(place.astype("float32") - x) * tirx.const(scale, "float32")) for place in places]
    if exclude_outside:
        weights = [
            tirx.Select(tirx.all(place >= 0, place < axis.size), w, zero)
            for place, w in zip(places, weights, strict=True)
        ]
    total = reduce(lambda p, q: p + q, weights)
    return [
        Tap(tirx.max(tirx.min(place, axis.size - 1), 0), w / total) for place, w in zip(places, weights, strict=True)
    ]


def resized(
    x: te.Tensor,
    axes: dict[int, Axis],
    taps: Callable[[tirx.Expr, Axis], list[Tap]],
    extrapolation: float | None = None,
) -> te.Tensor:
    """`x` with some axes resized.

    Args:
        x: The tensor.
        axes: The axes that change.
        taps: The elements that a result takes along one axis.
        extrapolation: What stands where a coordinate lies outside the input; None lets `taps` decide.
    """
    shape, dtype = shape_of(x), dtype_of(x)
    kind = arithmetic_type(dtype) if is_float(dtype) else "float32"

    def element(*i: tirx.Expr) -> tirx.Expr:
        along = [taps(i[a], axes[a]) if a in axes else [Tap(i[a])] for a in range(len(shape))]
        terms = []
        for chosen in itertools.product(*along):
            value = load(x, *(tap.index for tap in chosen))
            weights = [tap.weight for tap in chosen if tap.weight is not None]
            if not weights:
                return value
            terms.append(cast(value, kind) * cast(reduce(lambda p, q: p * q, weights), kind))
        total = reduce(lambda p, q: p + q, terms)
        if not is_float(dtype) and dtype != "bool":
            total = tirx.trunc(total)
        return cast(total, dtype)

    def bounded(*i: tirx.Expr) -> tirx.Expr:
        inside = [
            bound
            for a, axis in axes.items()
            for bound in (
                _coordinate(i[a], axis) >= tirx.const(0, "float32"),
                _coordinate(i[a], axis) <= tirx.const(axis.size - 1, "float32"),
            )
        ]
        return tirx.Select(tirx.all(*inside), element(*i), tirx.const(extrapolation, dtype))

    result = [axes[a].result if a in axes else size for a, size in enumerate(shape)]
    return te.compute(result, element if extrapolation is None else bounded, name="resize")


@operator("Resize", "Upsample")
def resize(node: Operation, x: te.Tensor, *rest: te.Tensor | None) -> te.Tensor:
    """A tensor resized by nearest, linear or cubic interpolation; scales or sizes must be constants."""
    shape = shape_of(x)
    upsample = node.op_type == "Upsample"
    mode = node.attribute("mode", "nearest")
    transformation = "asymmetric" if upsample else node.attribute("coordinate_transformation_mode", "half_pixel")
    named = [normalise_axis(axis, len(shape)) for axis in node.attribute("axes", range(len(shape)))]
    roi_values = node.known(1) if not upsample else None
    roi = [0.0] * len(named) + [1.0] * len(named) if roi_values is None or not roi_values.size else roi_values.tolist()
    scales, sizes = _scales_and_sizes(node, [shape[axis] for axis in named], rest)
    axes = {
        axis: Axis(shape[axis], size, scale, (roi[number], roi[number + len(named)]), transformation)
        for number, (axis, size, scale) in enumerate(zip(named, sizes, scales, strict=True))
        if size != shape[axis] or scale != 1 or transformation == "tf_crop_and_resize"
    }
    cubic = float(node.attribute("cubic_coeff_a", -0.75))
    outside = bool(node.attribute("exclude_outside", 0))
    antialias = bool(node.attribute("antialias", 0))
    rounding = "floor" if upsample else node.attribute("nearest_mode", "round_prefer_floor")

    def taps(i: tirx.Expr, axis: Axis) -> list[Tap]:
        if mode == "nearest":
            return nearest_tap(i, axis, rounding)
        if antialias and axis.scale < 1:
            return antialiased_taps(i, axis, cubic if mode == "cubic" else None, outside)
        return cubic_taps(i, axis, cubic, outside) if mode == "cubic" else linear_taps(i, axis)

    extrapolation = float(node.attribute("extrapolation_value", 0.0))
    return resized(x, axes, taps, extrapolation if transformation == "tf_crop_and_resize" else None)


def _scales_and_sizes(
    node: Operation, shape: Sequence[int], rest: Sequence[te.Tensor | None]
) -> tuple[list[float], list[int]]:
    """Per axis, result per input, and the length of the result, from whichever of the two the node gives."""
    where = 1 if node.op_type == "Upsample" else 2
    given = node.attribute("scales") if node.op_type == "Upsample" else None
    scales_input = rest[where - 1] if len(rest) >= where else None
    if given is None and scales_input is not None and shape_of(scales_input) != (0,):
        given = node.constant(where, "the list of scales").tolist()
    if given is not None:
        scales = [float(F32(scale)) for scale in given]
        return scales, [math.floor(F32(size) * F32(scale)) for size, scale in zip(shape, scales, strict=True)]
    sizes = list(node.integers(3, "the list of sizes"))
    scales = [size / old for size, old in zip(sizes, shape, strict=True)]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        common = min(scales) if policy == "not_larger" else max(scales)
        scales = [common] * len(scales)
        sizes = [math.floor(common * old + 0.5) for old in shape]
    return scales, sizes
