"""Operators that compute element by element, under numpy's broadcasting, which is PyTorch's as well."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from lepton_compile.gradients.registry import Operation, element_wise, operator


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors: functools.reduce(function, tensors)


element_wise(
    Abs=torch.abs,
    Acos=torch.acos,
    Acosh=torch.acosh,
    Add=torch.add,
    And=torch.logical_and,
    Asin=torch.asin,
    Asinh=torch.asinh,
    Atan=torch.atan,
    Atanh=torch.atanh,
    Ceil=torch.ceil,
    Cos=torch.cos,
    Cosh=torch.cosh,
    Equal=torch.eq,
    Erf=torch.erf,
    Exp=torch.exp,
    Floor=torch.floor,
    Greater=torch.gt,
    GreaterOrEqual=torch.ge,
    HardSwish=functional.hardswish,
    Identity=lambda x: x,
    IsNaN=torch.isnan,
    Less=torch.lt,
    LessOrEqual=torch.le,
    Log=torch.log,
    Max=_many(torch.maximum),
    Mean=lambda *tensors: sum(tensors[1:], tensors[0]) / len(tensors),
    Min=_many(torch.minimum),
    Mish=functional.mish,
    Mul=torch.mul,
    Neg=torch.neg,
    Not=torch.logical_not,
    Or=torch.logical_or,
    Reciprocal=torch.reciprocal,
    Relu=torch.relu,
    Round=torch.round,
    Sigmoid=torch.sigmoid,
    Sign=torch.sign,
    Sin=torch.sin,
    Sinh=torch.sinh,
    Softplus=lambda x: torch.logaddexp(x, torch.zeros_like(x)),  # PyTorch's own is linear from 20 on
    Softsign=functional.softsign,
    Sqrt=torch.sqrt,
    Sub=torch.sub,
    Sum=_many(torch.add),
    Tan=torch.tan,
    Tanh=torch.tanh,
    Where=torch.where,
    Xor=torch.logical_xor,
)


@operator("Div")
def divide(_: Operation, x: Tensor, y: Tensor) -> Tensor:
    """A quotient; of integers, what is left of it towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Pow")
def power(_: Operation, x: Tensor, y: Tensor) -> Tensor:
    """A power, in the type of x."""
    return torch.pow(x, y).to(x.dtype)


@operator("Mod")
def remainder(node: Operation, x: Tensor, y: Tensor) -> Tensor:
    """What a division leaves: with the sign of x if `fmod`, else of y."""
    return torch.fmod(x, y) if node.attribute("fmod", 0) else torch.remainder(x, y)


@operator("Clip")
def clip(_: Operation, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Within bounds; where they cross, the upper one."""
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("LeakyRelu")
def leaky_rectifier(node: Operation, x: Tensor) -> Tensor:
    """Alpha x where x is negative."""
    return functional.leaky_relu(x, float(node.attribute("alpha", 0.01)))


@operator("PRelu")
def parametric_rectifier(_: Operation, x: Tensor, slope: Tensor) -> Tensor:
    """Slope times x where x is negative."""
    return torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu")
def thresholded_rectifier(node: Operation, x: Tensor) -> Tensor:
    """Zero where x is not above alpha."""
    return torch.where(x > float(node.attribute("alpha", 1.0)), x, torch.zeros_like(x))


@operator("Elu", "Celu")
def exponential_unit(node: Operation, x: Tensor) -> Tensor:
    """Alpha (exp(x) - 1) where x is negative; Celu of x / alpha."""
    alpha = float(node.attribute("alpha", 1.0))
    return functional.elu(x, alpha) if node.node.op == "Elu" else functional.celu(x, alpha)


@operator("Selu")
def scaled_exponential_unit(node: Operation, x: Tensor) -> Tensor:
    """Gamma times Elu (Klambauer et al., 2017)."""
    alpha = float(node.attribute("alpha", 1.67326319217681884765625))
    return float(node.attribute("gamma", 1.05070102214813232421875)) * functional.elu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(node: Operation, x: Tensor) -> Tensor:
    """Alpha x + beta between 0 and 1."""
    return torch.clamp(float(node.attribute("alpha", 0.2)) * x + float(node.attribute("beta", 0.5)), 0, 1)


@operator("Gelu")
def gelu(node: Operation, x: Tensor) -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel, 2016)."""
    node.require("approximate", "none", "tanh")
    return functional.gelu(x, approximate=node.attribute("approximate", "none"))


@operator("Swish")
def swish(node: Operation, x: Tensor) -> Tensor:
    """The product of x and sigmoid(alpha x) (Ramachandran et al., 2017)."""
    return x * torch.sigmoid(float(node.attribute("alpha", 1.0)) * x)


@operator("Cast")
def cast(node: Operation, x: Tensor) -> Tensor:
    """Another element type."""
    return x.to(dtype_of(node.attribute("to")))


@operator("CastLike")
def cast_like(_: Operation, x: Tensor, y: Tensor) -> Tensor:
    """The element type of another tensor."""
    return x.to(y.dtype)


@operator("Dropout")
def dropout(_: Operation, x: Tensor, *ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Nothing is dropped: models are in inference mode."""
    return x, torch.ones_like(x, dtype=torch.bool)


def dtype_of(element_type: int) -> torch.dtype:
    """PyTorch's element type for ONNX's."""
    found: torch.dtype = getattr(torch, str(onnx.helper.tensor_dtype_to_np_dtype(element_type)))
    return found
