"""The table of weights: named, aligned, read-only blobs in one block of memory.

The driver reaches every weight as an offset from one pointer, so that the block may be a section of the library or a
file that is mapped beside it. Embedding goes through the assembler's `.incbin`, which copies 500 MB in a second, where
a C array would take minutes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64


@dataclass(frozen=True)
class WeightTable:
    """Where each weight lies.

    Attributes:
        offsets: Byte offset of every weight by name, a multiple of 64. Weights with the same bytes share one.
        nbytes: Size of the table.
        digest: SHA-256 of what the table holds and where, hexadecimal.
    """

    offsets: Mapping[str, int]
    nbytes: int
    digest: str


def write_weights(weights: Mapping[str, npt.NDArray[np.generic]], stream: BinaryIO) -> WeightTable:
    """Write the table, weights in the mapping's order.

    Args:
        weights: Arrays in their physical shape.
        stream: Where the bytes go.
    """
    offsets: dict[str, int] = {}
    seen: dict[bytes, int] = {}
    table = hashlib.sha256()
    position = 0

    def write(data: bytes | memoryview) -> None:
        nonlocal position
        stream.write(data)
        position += len(data)

    for name, array in weights.items():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest()
        if key not in seen:
            write(bytes(-position % ALIGNMENT))
            table.update(key + position.to_bytes(8, "little"))
            seen[key] = position
            write(data)
        offsets[name] = seen[key]
    # Vector loads may run past the end of the last blob, but never past a multiple of the alignment.
    write(bytes(-position % ALIGNMENT))
    return WeightTable(offsets, position, table.hexdigest())


def weights_assembly(symbol: str, file: str, architecture: str) -> str:
    """Assembler source of a read-only section that holds the file, and of a pointer to it that stays in the library.

    Code reaches the pointer, and the pointer any distance: code of x86-64 reaches no further than 2 GB. There the
    weights lie in a large section, which linkers put where it stands between no two others.

    Args:
        symbol: Name of the pointer, in C a `const uint8_t *const`.
        file: The file's name.
        architecture: The first part of the target's triple.
    """
    section = '.lrodata, "al"' if architecture == "x86_64" else '.rodata, "a"'
    return f"""\
    .section {section}, %progbits
    .balign {ALIGNMENT}
.Lweights:
    .incbin "{file}"
    .section .data.rel.ro, "aw", %progbits
    .balign 8
    .globl {symbol}
    .hidden {symbol}
    .type {symbol}, %object
    .size {symbol}, 8
{symbol}:
    .quad .Lweights
    .section .note.GNU-stack, "", %progbits
"""
