"""Instructions that add products of four bytes and four signed bytes to each int32 lane of a vector.

| name | where | the left bytes |
|---|---|---|
| vpdpbusd | x86-64 with AVX512-VNNI or AVX-VNNI ("Intel 64 and IA-32 Architectures Software Developer's Manual" 2C) | unsigned |
| usdot | aarch64 with I8MM ("Arm Architecture Reference Manual", C7.2) | unsigned |
| sdot | aarch64 with DotProd (the same) | signed |

An operand of the other kind is counted with its highest bit turned over: as 128 more, or less, than it is.
"""  # noqa: E501

from __future__ import annotations

from tvm import tirx

BYTES = 4
"""Bytes whose products are added to a lane at once."""

SIGN = 128
"""What the highest bit counts for in unsigned bytes; minus that in signed ones."""

_INTRINSICS = {
    ("vpdpbusd", 16): "llvm.x86.avx512.vpdpbusd.512",
    ("vpdpbusd", 8): "llvm.x86.avx512.vpdpbusd.256",
    ("vpdpbusd", 4): "llvm.x86.avx512.vpdpbusd.128",
    ("usdot", 4): "llvm.aarch64.neon.usdot",
    ("sdot", 4): "llvm.aarch64.neon.sdot",
}
_LEFT = {"vpdpbusd": "uint8", "usdot": "uint8", "sdot": "int8"}


def add_products(instruction: str, lanes: int, total: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
    """A vector of int32 sums with the products of four times as many bytes added to it.

    Args:
        instruction: Its name.
        lanes: Lanes of the sums.
        total: The sums.
        left: Bytes as `counted` gives them.
        right: Signed bytes.
    """
    name = _INTRINSICS[instruction, lanes]
    operands = [total, left, right]
    if not name.startswith("llvm.x86"):
        operands[1] = tirx.reinterpret(f"int8x{lanes * BYTES}", left)  # LLVM's types know no signs
        name = f"{name}.v{lanes}i32.v{lanes * BYTES}i8"
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, *operands)


def offset(instruction: str, dtype: str) -> int:
    """By how much more than they are an instruction counts left operands of a type."""
    if dtype == _LEFT[instruction]:
        return 0
    return SIGN if dtype == "int8" else -SIGN


def counted(instruction: str, values: tirx.Expr, dtype: str) -> tirx.Expr:
    """Bytes of a type as a left operand: a vector of them, or an integer that they are packed in."""
    if not offset(instruction, dtype):
        return values
    kind = str(values.expr_ty())
    element, _, lanes = kind.partition("x")
    turned = tirx.const(-SIGN, "int8") if element in ("int8", "uint8") else tirx.const(-0x7F7F7F80, "int32")
    if element == "uint8":
        turned = tirx.const(SIGN, "uint8")
    return tirx.bitwise_xor(values, tirx.Broadcast(turned, int(lanes)) if lanes else turned)
