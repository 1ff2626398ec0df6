"""Minimal filtering: m outputs of a filter of r taps from m + r - 1 multiplications instead of m * r.

Both the filter and m + r - 1 inputs are evaluated at as many points, multiplied point by point, and the outputs
interpolated from the products (Toom and Cook; as a filter, Winograd, "Arithmetic Complexity of Computations", 1980):

    y = A^T ((G g) * (B^T d))

The points are 0, pairs +p and -p, and infinity, so that a pair shares its even and its odd part. Which p decides how
much precision the sums lose: 2/3 and 3/2 lose half of what the customary 1 and 2 do (cf. Barabasz, Anderson, Soodhalter
and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", ACM TOMS 2020).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels.loops import allocate, load, register, store, vectorized
from lepton_compile.kernels.register_tile import LaneValue

# The positive one of every pair of points, by the number of points.
PAIRS = {
    4: (Fraction(1),),
    6: (Fraction(2, 3), Fraction(3, 2)),
    8: (Fraction(1, 2), Fraction(1), Fraction(2)),
}

Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Filter:
    """The transforms of one axis, F(outputs, taps). One output of one tap is that axis left as it is.

    Attributes:
        outputs: Neighbouring outputs computed together.
        taps: Length of the filter.
        points: Multiplications, and inputs seen.
        analysis: B^T, points x points: from inputs to their values at the points.
        kernel: G, points x taps: from the filter's taps to its values at the points.
        synthesis: A^T, outputs x points: from products to outputs.
    """

    outputs: int
    taps: int
    points: int
    analysis: tuple[Row, ...]
    kernel: tuple[Row, ...]
    synthesis: tuple[Row, ...]

    def kernel_matrix(self) -> npt.NDArray[np.float64]:
        """G as an array."""
        return np.array([[float(value) for value in row] for row in self.kernel])

    @functools.cached_property
    def analysis_operations(self) -> float:
        """Multiply-adds of B^T d."""
        return _pair_operations(self.analysis)

    @functools.cached_property
    def synthesis_operations(self) -> float:
        """Multiply-adds of A^T m."""
        return _pair_operations(self.synthesis)


def _pair_operations(matrix: Sequence[Row]) -> float:
    """Multiply-adds of a product with a transform's matrix, in which the points of a pair share half of their work."""
    return sum(bool(value) for row in matrix for value in row) / 2


@functools.cache
def minimal_filter(outputs: int, taps: int) -> Filter:
    """The transforms of F(outputs, taps).

    Raises:
        KeyError: There are no points for outputs + taps - 1 multiplications.
    """
    count = outputs + taps - 1
    if count == 1:
        one = ((Fraction(1),),)
        return Filter(1, 1, 1, one, one, one)
    points = [Fraction(0)]
    for p in PAIRS[count]:
        points += [p, -p]
    analysis, kernel = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = functools.reduce(lambda product, other: product * (point - other), others, Fraction(1))
        analysis.append((*_polynomial(others), Fraction(0)))
        kernel.append(tuple(point**power / scale for power in range(taps)))
    analysis.append(_polynomial(points))
    kernel.append((Fraction(0),) * (taps - 1) + (Fraction(1),))
    synthesis = [(*(point**power for point in points), Fraction(int(power == outputs - 1))) for power in range(outputs)]
    return Filter(outputs, taps, count, tuple(analysis), tuple(kernel), tuple(synthesis))


def _polynomial(roots: Sequence[Fraction]) -> Row:
    """Coefficients of the product of (x - root), the constant one first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return tuple(coefficients)


class Vectors:
    """Straight-line code over vectors, each value in a register of its own."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._registers: list[tirx.Buffer] = []
        self._statements: list[tirx.Stmt] = []

    def keep(self, value: LaneValue) -> LaneValue:
        """Compute a value once, for all of its uses."""
        made = register(f"v{len(self._registers)}", self._lanes)
        self._registers.append(made)
        self._statements.append(vectorized(self._lanes, lambda lane: store(made, [lane], value(lane))))
        return lambda lane: load(made, [lane])

    def write(self, put: Callable[[tirx.Expr], tirx.Stmt]) -> None:
        """A statement for every lane."""
        self._statements.append(vectorized(self._lanes, put))

    def code(self) -> tirx.Stmt:
        """All of it."""
        return allocate(self._registers, self._statements)

    def analyse_all(
        self, filters: Sequence[Filter], read: Callable[[Sequence[int], tirx.Expr], tirx.Expr]
    ) -> list[LaneValue]:
        """B^T d along every axis, of the inputs that `read` gives at a position and lane; in row-major order."""
        extents = [transform.points for transform in filters]
        values: dict[tuple[int, ...], LaneValue] = {}
        for at in np.ndindex(*extents):
            values[at] = lambda lane, at=at: read(at, lane)  # type: ignore[misc]
        loaded = False
        for axis, transform in enumerate(filters):
            if transform.points > 1:
                for fiber in _fibers(extents, axis):
                    inputs = [values[at] if loaded else self.keep(values[at]) for at in fiber]
                    values.update(zip(fiber, self.analyse(transform, inputs), strict=True))
                loaded = True
        return list(values.values())

    def synthesise_all(self, filters: Sequence[Filter], read: Callable[[int, tirx.Expr], tirx.Expr]) -> list[LaneValue]:
        """A^T m along every axis, of the products that `read` gives at a point, counted row-major, and lane."""
        extents = [transform.points for transform in filters]
        values: dict[tuple[int, ...], LaneValue] = {}
        for point, at in enumerate(np.ndindex(*extents)):
            values[at] = lambda lane, point=point: read(point, lane)  # type: ignore[misc]
        loaded = False
        for axis, transform in enumerate(filters):
            if transform.points > 1:
                for fiber in _fibers(extents, axis):
                    products = [values.pop(at) if loaded else self.keep(values.pop(at)) for at in fiber]
                    values.update(zip(fiber, self.synthesise(transform, products), strict=False))
                extents[axis] = transform.outputs
                loaded = True
        return [values[at] for at in np.ndindex(*extents)]

    def analyse(self, transform: Filter, inputs: Sequence[LaneValue]) -> list[LaneValue]:
        """B^T d. The two points of a pair differ in the sign of their odd part."""
        if transform.points == 1:
            return list(inputs)
        rows = transform.analysis
        result = [self.keep(_sum(zip(rows[0], inputs, strict=True)))]
        for first in range(1, transform.points - 1, 2):
            plus, minus = rows[first], rows[first + 1]
            even = [(a + b) / 2 for a, b in zip(plus, minus, strict=True)]
            odd = [(a - b) / 2 for a, b in zip(plus, minus, strict=True)]
            scale = next(value for value in reversed(odd) if value)
            e = self.keep(_sum(zip(even, inputs, strict=True)))
            o = self.keep(_sum((value / scale, x) for value, x in zip(odd, inputs, strict=True)))
            result += [self.keep(_sum([(Fraction(1), e), (sign * scale, o)])) for sign in (1, -1)]
        result.append(self.keep(_sum(zip(rows[-1], inputs, strict=True))))
        return result

    def synthesise(self, transform: Filter, products: Sequence[LaneValue]) -> list[LaneValue]:
        """A^T m. Even powers of a pair of points are equal, odd ones opposite: so products are added or subtracted."""
        if transform.points == 1:
            return list(products)
        sums, differences = [], []
        for first in range(1, transform.points - 1, 2):
            a, b = products[first], products[first + 1]
            sums.append(self.keep(_sum([(Fraction(1), a), (Fraction(1), b)])))
            differences.append(self.keep(_sum([(Fraction(1), a), (Fraction(-1), b)])))
        result = []
        for power, row in enumerate(transform.synthesis):
            pairs = differences if power % 2 else sums
            terms = [(row[0], products[0]), *zip(row[1:-1:2], pairs, strict=True), (row[-1], products[-1])]
            result.append(self.keep(_sum(terms)))
        return result


def _fibers(extents: Sequence[int], axis: int) -> Iterator[list[tuple[int, ...]]]:
    """The positions along one axis, for each position on the others."""
    others = [*extents[:axis], 1, *extents[axis + 1 :]]
    for at in np.ndindex(*others):
        yield [(*at[:axis], i, *at[axis + 1 :]) for i in range(extents[axis])]


def _sum(terms: Iterable[tuple[Fraction, LaneValue]]) -> LaneValue:
    """The sum of coefficient * value; a value of coefficient one starts it, so that the rest are multiply-adds."""
    present = [(coefficient, value) for coefficient, value in terms if coefficient]
    present.sort(key=lambda term: term[0] != 1)

    def at(lane: tirx.Expr) -> tirx.Expr:
        (first, value), *rest = present
        total = value(lane) if first == 1 else value(lane) * float(first)
        for coefficient, value in rest:
            if abs(coefficient) == 1:
                total = total + value(lane) if coefficient > 0 else total - value(lane)
            else:
                total = total + value(lane) * tirx.const(float(coefficient), "float32")
        return total

    return at
