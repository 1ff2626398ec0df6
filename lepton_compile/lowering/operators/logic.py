"""Comparisons, logic, and bits."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import cast, dtype_of, pointwise, widen
from lepton_compile.lowering.operators.registry import Operation, operator

_COMPARISONS: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "Equal": lambda x, y: x == y,
    "Greater": lambda x, y: x > y,
    "GreaterOrEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessOrEqual": lambda x, y: x <= y,
}

_LOGIC: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "And": lambda x, y: tirx.all(x, y),
    "Or": lambda x, y: tirx.any(x, y),
    "Xor": lambda x, y: x.astype("int8") != y.astype("int8"),
}

_BITS: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "BitwiseAnd": tirx.bitwise_and,
    "BitwiseOr": tirx.bitwise_or,
    "BitwiseXor": tirx.bitwise_xor,
}


@operator(*_COMPARISONS)
def compare(node: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A comparison; false where either side is NaN."""
    comparison = _COMPARISONS[node.op_type]
    if dtype_of(a) == "bool":
        return pointwise(lambda x, y: comparison(x.astype("int8"), y.astype("int8")), a, b, name="compare")
    return pointwise(comparison, widen(a), widen(b), name="compare")


@operator(*_LOGIC)
def logic(node: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A logical operation on booleans."""
    return pointwise(_LOGIC[node.op_type], a, b, name="logic")


@operator("Not")
def logical_not(_: Operation, x: te.Tensor) -> te.Tensor:
    """The negation of booleans."""
    return pointwise(tirx.Not, x, name="logical_not")


@operator(*_BITS)
def bitwise(node: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """An operation on the bits of integers."""
    return pointwise(_BITS[node.op_type], a, b, name="bitwise")


@operator("BitwiseNot")
def bitwise_not(_: Operation, x: te.Tensor) -> te.Tensor:
    """All bits flipped."""
    return pointwise(tirx.bitwise_not, x, name="bitwise_not")


@operator("BitShift")
def bit_shift(node: Operation, x: te.Tensor, y: te.Tensor) -> te.Tensor:
    """X shifted by Y bits; where Y is no number of bits within the type, all of them are shifted out."""
    dtype = dtype_of(x)
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    # C shifts narrow types in 32 bits.
    wide = dtype.replace(str(bits), str(max(bits, 32)))
    zero, most = tirx.const(0, wide), tirx.const(bits - 1, wide)

    def element(v: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        out_of_range = tirx.any(n < zero, n > most)
        amount = tirx.Select(out_of_range, most, n)
        if node.attribute("direction") == "LEFT":
            return tirx.Select(out_of_range, zero, tirx.shift_left(v, amount))
        shifted = tirx.shift_right(v, amount)
        return shifted if dtype.startswith("int") else tirx.Select(out_of_range, zero, shifted)

    return pointwise(lambda v, n: cast(element(cast(v, wide), cast(n, wide)), dtype), x, y, name="bit_shift")


@operator("IsNaN")
def is_nan(_: Operation, x: te.Tensor) -> te.Tensor:
    """Whether an element is NaN."""
    return pointwise(tirx.isnan, widen(x), name="is_nan")


@operator("IsInf")
def is_infinite(node: Operation, x: te.Tensor) -> te.Tensor:
    """Whether an element is an infinity of one of the signs asked for."""
    positive, negative = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)

    def element(v: tirx.Expr) -> tirx.Expr:
        infinity = tirx.const(float("inf"), str(v.expr_ty()))
        if positive and negative:
            return tirx.abs(v) == infinity
        if positive or negative:
            return v == (infinity if positive else -infinity)
        return tirx.const(False, "bool")

    return pointwise(element, widen(x), name="is_infinite")
