"""Arithmetic read as a polynomial, so that one formula covers all its spellings.

    Mul(Mul(x, 0.5), Add(Erf(u), 1)),  Mul(x, Add(Mul(Erf(u), 0.5), 0.5)),  ...   ->   0.5 x + 0.5 x g,  g = Erf(u)

Sums, differences, products, quotients and powers by a number are multiplied out. What else a tensor is computed by
makes it a symbol, and so does being read more than once: the `x` of an activation is read by several of its nodes,
their inner values are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import constant, is_operator, producer

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Pow")

# Bounds of what is multiplied out; formulas of activations are far smaller.
_DEPTH = 8
_TERMS = 8

# Coefficients are often written with four digits, or rounded to float16.
_TOLERANCE = 1e-3

Monomial = tuple[int, ...]  # the identities of its symbols, sorted, each as often as it is a factor
Terms = dict[Monomial, float]


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A tensor as a polynomial in other tensors.

    Attributes:
        terms: The coefficient of each monomial.
        symbols: The tensors that are its symbols, in the order they are met.
        nodes: The nodes that compute it from them.
    """

    terms: Mapping[Monomial, float]
    symbols: tuple[gs.Tensor, ...]
    nodes: tuple[gs.Node, ...]

    def equals(self, *expected: tuple[float, tuple[gs.Tensor, ...]]) -> bool:
        """Whether this is the sum of these coefficients times these products, up to rounding."""
        wanted = {_monomial(factors): coefficient for coefficient, factors in expected}
        return wanted.keys() == self.terms.keys() and all(
            math.isclose(value, wanted[monomial], rel_tol=_TOLERANCE) for monomial, value in self.terms.items()
        )


def is_square(node: gs.Node | None) -> bool:
    """Whether a node multiplies a tensor by itself."""
    if is_operator(node, "Mul"):
        return node.inputs[0] is node.inputs[1]
    return is_operator(node, "Pow") and number(node.inputs[1]) == 2


def number(tensor: gs.Tensor | None) -> float | None:
    """The value of a constant of one element; else None."""
    values = constant(tensor)
    return float(values.reshape(())) if values is not None and values.size == 1 and values.dtype.kind in "fiu" else None


def polynomial(tensor: gs.Tensor) -> Polynomial | None:
    """Read `tensor` as a polynomial; None where that takes more than a handful of terms."""
    symbols: dict[int, gs.Tensor] = {}
    nodes: list[gs.Node] = []
    terms = _expand(tensor, symbols, nodes, _DEPTH)
    return None if terms is None else Polynomial(terms, tuple(symbols.values()), tuple(nodes))


def _monomial(factors: Iterable[gs.Tensor]) -> Monomial:
    return tuple(sorted(id(factor) for factor in factors))


def _expand(tensor: gs.Tensor, symbols: dict[int, gs.Tensor], nodes: list[gs.Node], depth: int) -> Terms | None:
    value = number(tensor)
    if value is not None:
        return {(): value}
    node = producer(tensor)
    exponent = _exponent(node)
    expandable = is_operator(node, *ARITHMETIC) and exponent is not None
    if not expandable or (depth < _DEPTH and len(tensor.outputs) > 1) or depth == 0:
        symbols.setdefault(id(tensor), tensor)
        return {_monomial((tensor,)): 1.0}
    assert node is not None and exponent is not None
    nodes.append(node)
    left = _expand(node.inputs[0], symbols, nodes, depth - 1)
    if left is None:
        return None
    if is_operator(node, "Neg"):
        return _scaled(left, -1)
    if is_operator(node, "Div"):
        return _scaled(left, 1 / exponent)
    if is_operator(node, "Pow"):
        power: Terms | None = left
        for _ in range(int(exponent) - 1):
            power = None if power is None else _times(power, left)
        return power
    right = _expand(node.inputs[1], symbols, nodes, depth - 1)
    if right is None:
        return None
    if is_operator(node, "Mul"):
        return _times(left, right)
    return _plus(left, right if is_operator(node, "Add") else _scaled(right, -1))


def _exponent(node: gs.Node | None) -> float | None:
    """The number that a Div divides by or a Pow raises to; None where that is no polynomial; 1 for other nodes."""
    if is_operator(node, "Div"):
        divisor = number(node.inputs[1])
        return divisor or None
    if is_operator(node, "Pow"):
        exponent = number(node.inputs[1])
        return exponent if exponent in (1, 2, 3) else None
    return 1


def _scaled(terms: Terms, factor: float) -> Terms:
    return {monomial: coefficient * factor for monomial, coefficient in terms.items()}


def _plus(one: Terms, other: Terms) -> Terms | None:
    terms = {monomial: one.get(monomial, 0.0) + other.get(monomial, 0.0) for monomial in {**one, **other}}
    return terms if len(terms) <= _TERMS else None


def _times(one: Terms, other: Terms) -> Terms | None:
    if len(one) * len(other) > _TERMS:
        return None
    terms: Terms = {}
    for left, coefficient in one.items():
        for right, factor in other.items():
            monomial = tuple(sorted(left + right))
            terms[monomial] = terms.get(monomial, 0.0) + coefficient * factor
    return terms
