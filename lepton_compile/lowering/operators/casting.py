"""Conversions between element types.

Floats round towards zero on the way to integers. Out of range the C language leaves the answer open; onnxruntime's is
what the processor makes of it, by way of int32 for the narrow types and int64 for the unsigned ones, and ours takes the
same way.
"""

from __future__ import annotations

from tvm import te, tirx

from lepton_compile.kernels.vector_math import let
from lepton_compile.lowering.operators.pointwise import dtype_of, is_float, load
from lepton_compile.lowering.operators.registry import Operation, operator
from lepton_compile.lowering.operators.shape import numpy_name

_SUPPORTED = frozenset(
    [
        *("bool", "float16", "bfloat16", "float32", "float64"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
)
_TWO_TO_63 = 2.0**63


def convert_element(x: tirx.Expr, source: str, target: str) -> tirx.Expr:
    """One element of type `source` as `target`."""
    if source == target:
        return x
    if target == "bool":
        differs = x != tirx.const(0, source)
        # "Not equal" is false for NaN in LLVM's ordered comparisons.
        return tirx.any(differs, tirx.isnan(x)) if is_float(source) else differs
    if is_float(source) and target in ("int8", "uint8", "int16", "uint16"):
        return x.astype("int32").astype(target)
    if is_float(source) and target == "uint32":
        return x.astype("int64").astype(target)
    if is_float(source) and target == "uint64":
        limit = tirx.const(_TWO_TO_63, source) if source != "float16" else None
        if limit is None:
            return x.astype("int64").astype(target)
        top = tirx.const(1 << 63, "uint64")
        return let(
            x,
            lambda v: tirx.Select(
                v >= limit, (v - limit).astype("int64").astype("uint64") + top, v.astype("int64").astype("uint64")
            ),
        )
    if target in ("float16", "bfloat16") and source != "float32":
        return convert_element(x.astype("float32"), "float32", target)
    if target == "bfloat16":
        return _to_bfloat16(x)
    if source in ("float16", "bfloat16") and target != "float32":
        return convert_element(x.astype("float32"), "float32", target)
    return x.astype(target)


def _to_bfloat16(x: tirx.Expr) -> tirx.Expr:
    """Round to the nearest bfloat16, ties to even; spelled out, since TVM takes a cast there and back for nothing."""

    def rounded(bits: tirx.Expr) -> tirx.Expr:
        high = tirx.const(16, "uint32")
        odd = (bits >> high) & tirx.const(1, "uint32")
        near = (bits + tirx.const(0x7FFF, "uint32") + odd) >> high
        # Rounding could carry the payload of a NaN into infinity.
        nan = (bits >> high) | tirx.const(0x40, "uint32")
        magnitude = bits & tirx.const(0x7FFFFFFF, "uint32")
        chosen = tirx.Select(magnitude > tirx.const(0x7F800000, "uint32"), nan, near)
        return tirx.reinterpret("bfloat16", chosen.astype("uint16"))

    return let(tirx.reinterpret("uint32", x), rounded)


def convert_tensor(node: Operation, x: te.Tensor, target: str) -> te.Tensor:
    """Every element as `target`."""
    source = dtype_of(x)
    for dtype in (source, target):
        if dtype not in _SUPPORTED:
            raise node.unsupported(f"the element type {dtype} is not supported")
    if source == target:
        return x
    return te.compute(x.shape, lambda *i: convert_element(load(x, *i), source, target), name="cast")


@operator("Cast")
def cast(node: Operation, x: te.Tensor) -> te.Tensor:
    """`x` in the type `to`."""
    return convert_tensor(node, x, numpy_name(node.attribute("to")))


@operator("CastLike")
def cast_like(node: Operation, x: te.Tensor, like: te.Tensor) -> te.Tensor:
    """`x` in the type of another tensor."""
    return convert_tensor(node, x, dtype_of(like))
