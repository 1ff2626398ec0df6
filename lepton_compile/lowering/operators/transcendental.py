"""Exponentials, logarithms, trigonometric and hyperbolic functions."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.lowering.operators.pointwise import float_pointwise
from lepton_compile.lowering.operators.registry import Operation, operator


def _from_libm(name: str) -> Callable[[tirx.Expr], tirx.Expr]:
    return lambda x: vector_math.libm(name, x)


_FUNCTIONS: dict[str, Callable[[tirx.Expr], tirx.Expr]] = {
    "Exp": vector_math.exp,
    "Log": vector_math.log,
    "Erf": vector_math.erf,
    "Sin": vector_math.sin,
    "Cos": vector_math.cos,
    "Tan": vector_math.tan,
    **{
        name.capitalize(): _from_libm(name)
        for name in ("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
    },
}


@operator(*_FUNCTIONS)
def transcendental(node: Operation, x: te.Tensor) -> te.Tensor:
    """The function that the operator is named after."""
    return float_pointwise(_FUNCTIONS[node.op_type], x, name=node.op_type.lower())
