"""Activation functions.

A limit is written `Select(x < limit, limit, x)`: NaN fails every comparison, so it comes through, as in onnxruntime,
and LLVM makes one max or min instruction of it. An input that is used more than once is bound by `let`.
"""

from __future__ import annotations

import math

from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import broadcast_load, cast, dtype_of, float_pointwise, shape_of
from lepton_compile.lowering.operators.registry import Operation, operator


def constant_like(x: tirx.Expr, value: float) -> tirx.Expr:
    """A constant of the type of `x`."""
    return tirx.const(value, str(x.expr_ty()))


def at_least(x: tirx.Expr, limit: float) -> tirx.Expr:
    """max(x, limit) that keeps NaN."""
    return let(x, lambda v: tirx.Select(v < constant_like(v, limit), constant_like(v, limit), v))


def at_most(x: tirx.Expr, limit: float) -> tirx.Expr:
    """min(x, limit) that keeps NaN."""
    return let(x, lambda v: tirx.Select(v > constant_like(v, limit), constant_like(v, limit), v))


def hard_sigmoid_of(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    """max(0, min(1, alpha x + beta))."""
    return at_least(at_most(x * constant_like(x, alpha) + constant_like(x, beta), 1), 0)


def exponential_linear(x: tirx.Expr, alpha: float, scale: float = 1.0, gamma: float = 1.0) -> tirx.Expr:
    """Gamma x above zero, gamma alpha (exp(x / scale) - 1) below; exp never sees a positive argument."""

    def below(v: tirx.Expr) -> tirx.Expr:
        argument = at_most(v if scale == 1 else v * constant_like(v, 1 / scale), 0)
        return (vector_math.exp(argument) - constant_like(v, 1)) * constant_like(v, gamma * alpha)

    def above(v: tirx.Expr) -> tirx.Expr:
        return v if gamma == 1 else v * constant_like(v, gamma)

    return let(x, lambda v: tirx.Select(v > constant_like(v, 0), above(v), below(v)))


@operator("Relu")
def relu(_: Operation, x: te.Tensor) -> te.Tensor:
    """max(x, 0)."""
    return float_pointwise(lambda v: at_least(v, 0), x, name="relu")


@operator("LeakyRelu")
def leaky_relu(node: Operation, x: te.Tensor) -> te.Tensor:
    """X above zero, alpha x below."""
    alpha = node.attribute("alpha", 0.01)
    return float_pointwise(
        lambda x: let(x, lambda v: tirx.Select(v < constant_like(v, 0), v * constant_like(v, alpha), v)),
        x,
        name="leaky_relu",
    )


@operator("PRelu")
def parametric_relu(_: Operation, x: te.Tensor, slope: te.Tensor) -> te.Tensor:
    """X above zero, slope x below; the slope broadcasts to X and never widens it."""
    dtype = dtype_of(x)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype

    def element(*i: tirx.Expr) -> tirx.Expr:
        factor = cast(broadcast_load(slope, i), wide)
        value = let(cast(broadcast_load(x, i), wide), lambda v: tirx.Select(v < constant_like(v, 0), v * factor, v))
        return cast(value, dtype)

    return te.compute(shape_of(x), element, name="parametric_relu")


@operator("ThresholdedRelu")
def thresholded_relu(node: Operation, x: te.Tensor) -> te.Tensor:
    """X above alpha, zero elsewhere."""
    alpha = node.attribute("alpha", 1.0)
    return float_pointwise(
        lambda x: let(x, lambda v: tirx.Select(v > constant_like(v, alpha), v, constant_like(v, 0))),
        x,
        name="thresholded_relu",
    )


@operator("Elu")
def elu(node: Operation, x: te.Tensor) -> te.Tensor:
    """X above zero, alpha (exp(x) - 1) below."""
    alpha = node.attribute("alpha", 1.0)
    return float_pointwise(lambda v: exponential_linear(v, alpha), x, name="elu")


@operator("Selu")
def selu(node: Operation, x: te.Tensor) -> te.Tensor:
    """Elu times gamma, with the constants of Klambauer et al., "Self-Normalizing Neural Networks"."""
    alpha, gamma = (
        node.attribute("alpha", 1.67326319217681884765625),
        node.attribute("gamma", 1.05070102214813232421875),
    )
    return float_pointwise(lambda v: exponential_linear(v, alpha, gamma=gamma), x, name="selu")


@operator("Celu")
def celu(node: Operation, x: te.Tensor) -> te.Tensor:
    """X above zero, alpha (exp(x / alpha) - 1) below."""
    alpha = node.attribute("alpha", 1.0)
    return float_pointwise(lambda v: exponential_linear(v, alpha, scale=alpha), x, name="celu")


@operator("Sigmoid")
def sigmoid(_: Operation, x: te.Tensor) -> te.Tensor:
    """1 / (1 + exp(-x))."""
    return float_pointwise(vector_math.sigmoid, x, name="sigmoid")


@operator("HardSigmoid")
def hard_sigmoid(node: Operation, x: te.Tensor) -> te.Tensor:
    """max(0, min(1, alpha x + beta))."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return float_pointwise(lambda v: hard_sigmoid_of(v, alpha, beta), x, name="hard_sigmoid")


@operator("HardSwish")
def hard_swish(_: Operation, x: te.Tensor) -> te.Tensor:
    """X times HardSigmoid of slope 1/6."""
    return float_pointwise(lambda x: let(x, lambda v: v * hard_sigmoid_of(v, 1 / 6, 0.5)), x, name="hard_swish")


@operator("Swish")
def swish(node: Operation, x: te.Tensor) -> te.Tensor:
    """X sigmoid(alpha x)."""
    alpha = node.attribute("alpha", 1.0)
    return float_pointwise(
        lambda x: let(x, lambda v: v * vector_math.sigmoid(v * constant_like(v, alpha))), x, name="swish"
    )


@operator("Tanh")
def tanh(_: Operation, x: te.Tensor) -> te.Tensor:
    """The hyperbolic tangent."""
    return float_pointwise(vector_math.tanh, x, name="tanh")


@operator("Softplus")
def softplus(_: Operation, x: te.Tensor) -> te.Tensor:
    """ln(1 + exp(x))."""
    return float_pointwise(vector_math.softplus, x, name="softplus")


@operator("Softsign")
def softsign(_: Operation, x: te.Tensor) -> te.Tensor:
    """X / (1 + |x|)."""
    return float_pointwise(lambda x: let(x, lambda v: v / (constant_like(v, 1) + tirx.abs(v))), x, name="softsign")


@operator("Mish")
def mish(_: Operation, x: te.Tensor) -> te.Tensor:
    """X tanh(softplus(x))."""
    return float_pointwise(lambda x: let(x, lambda v: v * vector_math.tanh(vector_math.softplus(v))), x, name="mish")


@operator("Gelu")
def gelu(node: Operation, x: te.Tensor) -> te.Tensor:
    """X times the normal distribution function, exact or by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""

    def exact(v: tirx.Expr) -> tirx.Expr:
        return vector_math.erf(v * constant_like(v, math.sqrt(0.5)))

    def approximate(v: tirx.Expr) -> tirx.Expr:
        inner = v * constant_like(v, math.sqrt(2 / math.pi))
        return vector_math.tanh(inner * (v * v * constant_like(v, 0.044715) + constant_like(v, 1)))

    form = exact if node.attribute("approximate", "none") == "none" else approximate
    return float_pointwise(
        lambda x: let(x, lambda v: v * constant_like(v, 0.5) * (form(v) + constant_like(v, 1))), x, name="gelu"
    )


@operator("Shrink")
def shrink(node: Operation, x: te.Tensor) -> te.Tensor:
    """X moved towards zero by `bias` where |x| > lambd, zero elsewhere."""
    bias, limit = node.attribute("bias", 0.0), node.attribute("lambd", 0.5)

    def element(v: tirx.Expr) -> tirx.Expr:
        if "float" not in str(v.expr_ty()):
            return cast(element(cast(v, "float32")), str(v.expr_ty()))
        up, down = v - constant_like(v, bias), v + constant_like(v, bias)
        inside = tirx.Select(v < constant_like(v, -limit), down, constant_like(v, 0))
        return tirx.Select(v > constant_like(v, limit), up, inside)

    return float_pointwise(lambda x: let(x, element), x, name="shrink")
