"""Arithmetic, element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import (
    broadcast_load,
    cast,
    dtype_of,
    fill,
    float_pointwise,
    is_float,
    pointwise,
)
from lepton_compile.lowering.operators.registry import Operation, operator

Binary = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


@operator("Add")
def add(_: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A + B."""
    return float_pointwise(lambda x, y: x + y, a, b, name="add")


@operator("Sub")
def subtract(_: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A - B."""
    return float_pointwise(lambda x, y: x - y, a, b, name="subtract")


@operator("Mul")
def multiply(_: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A * B."""
    return float_pointwise(lambda x, y: x * y, a, b, name="multiply")


@operator("Div")
def divide(_: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """A / B; integers round towards zero."""
    if is_float(dtype_of(a)):
        return float_pointwise(lambda x, y: x / y, a, b, name="divide")
    return pointwise(_divided(tirx.truncdiv, lambda x: -x), a, b, name="divide")


def _divided(operation: Binary, by_minus_one: Callable[[tirx.Expr], tirx.Expr]) -> Binary:
    """An integer division that never traps, as x86's does where the quotient overflows and where the divisor is zero.

    The least number's quotient by -1 overflows, so that divisor is seen to apart. A zero among the elements is an error
    of the run before this; but the padding lanes of a blocked tensor may hold anything, and are divided as well.
    """

    def divide(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
        zero, one = (tirx.const(value, str(y.expr_ty())) for value in (0, 1))
        if str(x.expr_ty()).startswith("uint"):
            return operation(x, tirx.Select(y == zero, one, y))
        minus_one = tirx.const(-1, str(y.expr_ty()))
        usable = tirx.Select(tirx.any(y == minus_one, y == zero), one, y)
        return tirx.Select(y == minus_one, by_minus_one(x), operation(x, usable))

    return divide


def _floor_remainder(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """The remainder with the sign of the divisor, as Python's %."""
    zero = tirx.const(0, str(x.expr_ty()))

    def signed(r: tirx.Expr) -> tirx.Expr:
        return tirx.Select(tirx.any(tirx.all(r < zero, y > zero), tirx.all(r > zero, y < zero)), r + y, r)

    return let(vector_math.libm("fmod", x, y), signed)


@operator("Mod")
def modulo(node: Operation, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """The remainder: with the sign of B, or with that of A, as C's (`fmod`)."""
    like_c = node.attribute("fmod", 0)
    if is_float(dtype_of(a)):
        remainder = (lambda x, y: vector_math.libm("fmod", x, y)) if like_c else _floor_remainder
        return float_pointwise(remainder, a, b, name="modulo")
    remainder = tirx.truncmod if like_c else tirx.floormod
    return pointwise(_divided(remainder, lambda x: tirx.const(0, str(x.expr_ty()))), a, b, name="modulo")


@operator("Neg")
def negate(_: Operation, x: te.Tensor) -> te.Tensor:
    """-X."""
    return pointwise(lambda v: -v, x, name="negate")


@operator("Abs")
def absolute(_: Operation, x: te.Tensor) -> te.Tensor:
    """|X|."""
    if dtype_of(x).startswith("uint"):
        return x
    return float_pointwise(tirx.abs, x, name="absolute")


@operator("Sign")
def sign(_: Operation, x: te.Tensor) -> te.Tensor:
    """-1, 0 or 1; NaN for NaN."""

    def element(v: tirx.Expr) -> tirx.Expr:
        dtype = str(v.expr_ty())
        zero, one = tirx.const(0, dtype), tirx.const(1, dtype)
        if dtype.startswith("uint"):
            return tirx.Select(v > zero, one, zero)
        # v itself is zero, or NaN, where it is neither below nor above zero.
        return let(v, lambda v: tirx.Select(v > zero, one, tirx.Select(v < zero, -one, v)))

    return float_pointwise(element, x, name="sign")


@operator("Reciprocal")
def reciprocal(_: Operation, x: te.Tensor) -> te.Tensor:
    """1 / X."""
    return float_pointwise(lambda v: tirx.const(1, str(v.expr_ty())) / v, x, name="reciprocal")


@operator("Sqrt")
def square_root(_: Operation, x: te.Tensor) -> te.Tensor:
    """The square root."""
    return float_pointwise(tirx.sqrt, x, name="square_root")


@operator("Pow")
def power(node: Operation, x: te.Tensor, y: te.Tensor) -> te.Tensor:
    """X ** Y in the type of X; powers of integers are computed in float64, as onnxruntime does."""
    dtype = dtype_of(x)
    exponent = node.known(1)
    if exponent is not None and exponent.size == 1:
        value = float(exponent.ravel()[0])
        broadcast = pointwise(lambda v, _: v, x, y, name="base")
        if is_float(dtype):
            return float_pointwise(lambda v: vector_math.power(v, value), broadcast, name="power")
        if value in (0, 1, 2, 3):
            return pointwise(lambda v: vector_math.power(v, value), broadcast, name="power")
    wide = "float32" if is_float(dtype) and dtype != "float64" else "float64"
    return pointwise(
        lambda v, e: cast(vector_math.libm("pow", cast(v, wide), cast(e, wide)), dtype), x, y, name="power"
    )


def larger(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """The larger of two numbers; NaN where either is, as onnxruntime's Max."""
    bigger = tirx.Select(x > y, x, y)
    return tirx.Select(tirx.isnan(x), x, bigger) if is_float(str(x.expr_ty())) else bigger


def smaller(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """The smaller of two numbers; NaN where either is, as onnxruntime's Min."""
    lesser = tirx.Select(x < y, x, y)
    return tirx.Select(tirx.isnan(x), x, lesser) if is_float(str(x.expr_ty())) else lesser


def _extremum(node: Operation, tensors: tuple[te.Tensor, ...], of_two: Binary, below: bool) -> te.Tensor:
    """Fold `of_two` over the inputs. Against a constant that is not NaN one comparison does, which NaN fails."""

    def fold(index: int, accumulated: te.Tensor) -> te.Tensor:
        value, tensor = node.known(index), tensors[index]
        if value is not None and value.size == 1 and value.ravel()[0] == value.ravel()[0]:
            return float_pointwise(
                lambda x, y: tirx.Select(x < y if below else x > y, y, x), accumulated, tensor, name="limit"
            )
        return float_pointwise(
            lambda x, y: let(x, lambda x: let(y, lambda y: of_two(x, y))), accumulated, tensor, name="extremum"
        )

    return reduce(lambda accumulated, index: fold(index, accumulated), range(1, len(tensors)), tensors[0])


@operator("Max")
def maximum(node: Operation, *tensors: te.Tensor) -> te.Tensor:
    """The largest of the inputs."""
    return _extremum(node, tensors, larger, below=True)


@operator("Min")
def minimum(node: Operation, *tensors: te.Tensor) -> te.Tensor:
    """The smallest of the inputs."""
    return _extremum(node, tensors, smaller, below=False)


@operator("Clip")
def clip(_: Operation, x: te.Tensor, low: te.Tensor | None = None, high: te.Tensor | None = None) -> te.Tensor:
    """X within [min, max]; NaN stays NaN, and a limit that is NaN limits nothing.

    A limit that is missing is the lowest or highest finite number, so that infinities do not come through.
    """
    dtype = dtype_of(x)

    def element(*i: tirx.Expr) -> tirx.Expr:
        value = broadcast_load(x, i)
        if low is not None or is_float(dtype):
            least = broadcast_load(low, i) if low is not None else tirx.min_value(dtype)
            value = let(value, lambda v: tirx.Select(v < least, least, v))
        if high is not None or is_float(dtype):
            most = broadcast_load(high, i) if high is not None else tirx.max_value(dtype)
            value = let(value, lambda v: tirx.Select(v > most, most, v))
        return value

    return te.compute(x.shape, element, name="clip")


@operator("Sum")
def total(_: Operation, *tensors: te.Tensor) -> te.Tensor:
    """The sum of the inputs."""
    return float_pointwise(lambda *elements: reduce(lambda x, y: x + y, elements), *tensors, name="total")


@operator("Mean")
def mean(_: Operation, *tensors: te.Tensor) -> te.Tensor:
    """The mean of the inputs."""

    def element(*elements: tirx.Expr) -> tirx.Expr:
        return reduce(lambda x, y: x + y, elements) / tirx.const(len(elements), str(elements[0].expr_ty()))

    return float_pointwise(element, *tensors, name="mean")


@operator("Floor")
def floor(_: Operation, x: te.Tensor) -> te.Tensor:
    """The largest integer not above X."""
    return float_pointwise(tirx.floor, x, name="floor")


@operator("Ceil")
def ceil(_: Operation, x: te.Tensor) -> te.Tensor:
    """The smallest integer not below X."""
    return float_pointwise(tirx.ceil, x, name="ceil")


@operator("Round")
def round_half_even(_: Operation, x: te.Tensor) -> te.Tensor:
    """The nearest integer, halves to the even one."""
    return float_pointwise(tirx.nearbyint, x, name="round")


@operator("Where")
def where(_: Operation, condition: te.Tensor, x: te.Tensor, y: te.Tensor) -> te.Tensor:
    """X where the condition holds, Y elsewhere."""
    return pointwise(tirx.Select, condition, x, y, name="where")


@operator("Identity", "Dropout")
def identity(node: Operation, x: te.Tensor, *_: te.Tensor | None) -> te.Tensor | tuple[te.Tensor, ...]:
    """The input. Dropout does nothing in inference; its mask keeps everything."""
    if node.op_type == "Dropout":
        ratio, training = node.known(1), node.known(2)
        keeps_all = ratio is not None and float(ratio.ravel()[0]) == 0
        if training is not None and bool(training.ravel()[0]) and not keeps_all:
            raise node.unsupported("training mode draws random numbers")
    if node.outputs == 1:
        return x
    return x, fill(tuple(int(size) for size in x.shape), True, "bool")
