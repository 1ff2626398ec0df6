"""Tensors that are linear in integers, and their quantization without what stands between.

    quantize(sum of factor_i q_i + offset) = saturate(rint(sum of (factor_i / scale) q_i + offset / scale) + zero point)

The quotients by the scale are taken at compile time, in float64, and rounded to float32 once. So an element costs a
conversion and a multiply-add for each q_i, and one rounding; Relu and Clip are limits of the integer. ONNX rounds the
product, the sum and the quotient, one after the other, so the two may differ by one step where what is rounded lies as
near to a half as float32 can tell: within 1e-6 of its magnitude in steps. Where scales are powers of two both are
exact. An odd zero point is added behind the rounding, as halves go to even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from lepton_compile.kernels.kernel import shape_of
from lepton_compile.kernels.vector_math import nearest_integer
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.operators.pointwise import broadcast_load
from lepton_compile.lowering.region import Quantized, Scope

Numbers = npt.NDArray[np.float64]

# What is rounded has to be far from where its conversion to int32 overflows.
_LARGEST = 2.0**30
_BYTE = 255


@dataclass(frozen=True)
class Term:
    """Integers times factors.

    Attributes:
        values: The integers, of the shape of the whole.
        factor: What one of them stands for; broadcast to their shape.
        bound: The largest magnitude that they can have; broadcast as well.
    """

    values: te.Tensor
    factor: Numbers
    bound: Numbers


@dataclass(frozen=True)
class Linear:
    """A sum of terms and an offset, within limits.

    Attributes:
        terms: At least one.
        offset: Broadcast to their shape.
        low: Nothing is below.
        high: Nothing is above.
    """

    terms: tuple[Term, ...]
    offset: Numbers
    low: float = -math.inf
    high: float = math.inf

    @property
    def limited(self) -> bool:
        """Whether there are limits."""
        return self.low > -math.inf or self.high < math.inf

    def scaled(self, factor: Numbers | float) -> Linear:
        """The same times known numbers, if there are no limits."""
        terms = tuple(replace(term, factor=term.factor * factor) for term in self.terms)
        return replace(self, terms=terms, offset=self.offset * factor)

    def shifted(self, offset: Numbers | float) -> Linear:
        """The same plus known numbers, if there are no limits."""
        return replace(self, offset=self.offset + offset)


def linear_in(values: te.Tensor, factor: Array, bound: Array | float) -> Linear:
    """Integers times factors."""
    term = Term(values, np.asarray(factor, np.float64), np.asarray(bound, np.float64))
    return Linear((term,), np.zeros((), np.float64))


def linear_of(scope: Scope, tensor: te.Tensor) -> Linear | None:
    """What a tensor is in integers, if that was noted, or it was dequantized from bytes."""
    noted = scope.note_of(tensor)
    if isinstance(noted, Linear):
        return noted
    source = scope.quantized(tensor)
    return None if source is None else _dequantized(source)


def follow(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None], made: te.Tensor) -> None:
    """Note what an operator makes of tensors that are linear in integers, if that is linear as well."""
    rule = _RULES.get(operation.op_type)
    if rule is None or str(made.dtype) != "float32":
        return
    form = rule(scope, operation, inputs)
    if form is not None and all(shape_of(term.values) == shape_of(made) for term in form.terms):
        scope.note(made, form)


def quantized(scope: Scope, form: Linear, scale: float, zero: int, dtype: str) -> te.Tensor | None:
    """The quantization of what is linear in integers; None where that could overflow."""
    factors = [term.factor / scale for term in form.terms]
    offset = form.offset / scale + (zero - zero % 2)
    largest = np.max(np.abs(offset))
    for term, factor in zip(form.terms, factors, strict=True):
        largest = largest + np.max(np.abs(factor) * term.bound)
    if not largest < _LARGEST:  # NaN as well
        return None
    low, high = (int(limit(dtype).value) for limit in (tirx.min_value, tirx.max_value))
    least, most = (int(np.clip(np.rint(limit / scale) + zero, low, high)) for limit in (form.low, form.high))
    shape = shape_of(form.terms[0].values)
    known = [_constant(scope, numbers, len(shape)) for numbers in (*factors, offset)]

    def element(*i: tirx.Expr) -> tirx.Expr:
        total = broadcast_load(known[-1], i)
        for term, factor in zip(form.terms, known, strict=False):
            total = term.values(*i).astype("float32") * broadcast_load(factor, i) + total
        rounded = nearest_integer(total) + zero % 2
        return tirx.min(tirx.max(rounded, least), most).astype(dtype)

    return te.compute(shape, element, name="quantize")


def _constant(scope: Scope, numbers: Numbers, rank: int) -> te.Tensor:
    """Known numbers as float32: one, or an array of all axes."""
    single = numbers.astype(np.float32)
    if single.size and (single == single.reshape(-1)[0]).all():
        return scope.constant(single.reshape(-1)[0])
    return scope.constant(single.reshape((1,) * (rank - single.ndim) + single.shape))


def _dequantized(source: Quantized) -> Linear | None:
    if source.dtype not in ("uint8", "int8") or source.block:
        return None
    along = [1] * len(source.values.shape)
    if source.scale.size > 1 or source.zero.size > 1:
        along[source.axis] = -1
    scale = source.scale.astype(np.float64).reshape(along)
    return linear_in(source.values, scale, _BYTE).shifted(-source.zero.astype(np.float64).reshape(along) * scale)


def _number(scope: Scope, tensor: te.Tensor | None) -> Numbers | None:
    known = None if tensor is None else scope.literal_or_known(tensor)
    return None if known is None else known.astype(np.float64)


Rule = Callable[[Scope, Operation, Sequence[te.Tensor | None]], Linear | None]


def _added(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None], sign: int = 1) -> Linear | None:
    forms = [None if tensor is None else linear_of(scope, tensor) for tensor in inputs]
    numbers = [_number(scope, tensor) for tensor in inputs]
    if len(inputs) != 2 or any(form is not None and form.limited for form in forms):
        return None
    first, second = forms
    if first is not None and second is not None:
        other = second.scaled(sign)
        return replace(first.shifted(other.offset), terms=(*first.terms, *other.terms))
    if first is not None and numbers[1] is not None:
        return first.shifted(sign * numbers[1])
    if second is not None and numbers[0] is not None:
        return second.scaled(sign).shifted(numbers[0])
    return None


def _subtracted(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None]) -> Linear | None:
    return _added(scope, operation, inputs, -1)


def _multiplied(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None]) -> Linear | None:
    """A product with known numbers, or of two tensors of bytes: their product has 16 bits."""
    if len(inputs) != 2 or inputs[0] is None or inputs[1] is None:
        return None
    sources = [scope.quantized(tensor) for tensor in inputs if tensor is not None]
    if all(source is not None and source.of_bytes for source in sources):
        return _product_of_bytes(*(source for source in sources if source is not None))
    for tensor, other in (inputs, inputs[::-1]):
        form, numbers = linear_of(scope, tensor), _number(scope, other)
        if form is not None and not form.limited and numbers is not None:
            return form.scaled(numbers)
    return None


def _product_of_bytes(a: Quantized, b: Quantized) -> Linear:
    shape = np.broadcast_shapes(shape_of(a.values), shape_of(b.values))

    def element(*i: tirx.Expr) -> tirx.Expr:
        left, right = (broadcast_load(x.values, i).astype("int32") - int(x.zero.item()) for x in (a, b))
        return left * right

    product = te.compute(shape, element, name="product")
    return linear_in(product, a.scale.astype(np.float64) * b.scale.astype(np.float64), _BYTE**2)


def _relu(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None]) -> Linear | None:
    return _limited(scope, inputs[0], 0.0, math.inf)


def _clip(scope: Scope, operation: Operation, inputs: Sequence[te.Tensor | None]) -> Linear | None:
    limits = [-math.inf, math.inf]
    for place, tensor in enumerate(inputs[1:]):
        if tensor is not None:
            known = _number(scope, tensor)
            if known is None or known.size != 1 or math.isnan(known.item()):
                return None
            limits[place] = float(known.item())
    return _limited(scope, inputs[0], *limits) if limits[0] <= limits[1] else None


def _limited(scope: Scope, tensor: te.Tensor | None, low: float, high: float) -> Linear | None:
    form = None if tensor is None else linear_of(scope, tensor)
    if form is None:
        return None
    low, high = max(low, form.low), min(high, form.high)
    return replace(form, low=low, high=high) if low <= high else None


_RULES: Mapping[str, Rule] = {
    "Add": _added,
    "Sub": _subtracted,
    "Mul": _multiplied,
    "Relu": _relu,
    "Clip": _clip,
}
