"""C names: what ONNX calls its tensors is often no identifier, or a word of C or C++."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Words of C11 and C++20 that can name no struct field, and the macros of the headers that NAME.h includes.
_RESERVED = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool break case catch
    char char8_t char16_t char32_t class compl concept const consteval constexpr constinit const_cast continue co_await
    co_return co_yield decltype default delete do double dynamic_cast else enum explicit export extern false float for
    friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast
    struct switch synchronized template this thread_local throw true try typedef typeid typename typeof union unsigned
    using virtual void volatile wchar_t while xor xor_eq linux unix NULL
    """.split()  # noqa: SIM905 (a list of words reads better unquoted)
)

C_TYPES = {
    "bool": "uint8_t",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    "float32": "float",
    "float64": "double",
}
"""The C type of an element; the 16-bit floats travel as their bits."""


def identifier(name: str) -> str:
    """A C and C++ identifier like `name`: what is no letter or digit becomes an underscore."""
    # A leading underscore before a capital, and two underscores in a row, are the implementation's in C and C++.
    cleaned = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    if not cleaned or cleaned[0].isdigit():
        cleaned = f"t{cleaned}" if cleaned else "tensor"
    return f"{cleaned}_" if cleaned in _RESERVED else cleaned


def unique_identifiers(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """`identifier` of each name, told apart by numbers where two come out the same."""
    used = set(taken)
    result = []
    for name in names:
        base = identifier(name)
        candidate, count = base, 2
        while candidate in used:
            candidate, count = f"{base}_{count}", count + 1
        used.add(candidate)
        result.append(candidate)
    return result


def comment(text: str) -> str:
    """The text made safe to stand inside a C comment and on one line."""
    return " ".join(text.split()).replace("*/", "* /").replace("/*", "/ *")


def string_literal(text: str) -> str:
    """The text as a C string literal."""
    body = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{body}"'
