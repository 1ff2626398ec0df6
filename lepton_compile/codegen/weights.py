"""The table of weights: named, aligned, read-only blobs in one block of memory.

The driver reaches every weight as an offset from one pointer, so that the block may be a section of the library or a
file mapped beside it. A C array of it would take minutes to compile. The assembler makes an object with an empty
section, and the table is written behind it: `.incbin` would write it twice, which takes seconds where it is large.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

Weights: TypeAlias = Mapping[str, npt.NDArray[np.generic]]
"""The weights of one program by name, arrays in their physical shape."""

ALIGNMENT = 64

# Where the table lies. x86-64's code reaches no further than 2 GB; there it lies in a large section, which linkers put
# where it stands between no two others.
_SECTION = ".rodata.weights"
_LARGE_SECTION = ".lrodata.weights"


@dataclass(frozen=True)
class WeightTable:
    """Where each weight lies.

    Attributes:
        offsets: For every program, the byte offset of each of its weights by name, a multiple of 64. Weights with the
            same bytes share one.
        reads: For every program, how many bytes of the table it reads.
        nbytes: Size of the table.
        digest: SHA-256 of what the table holds and where, hexadecimal.
    """

    offsets: tuple[Mapping[str, int], ...]
    reads: tuple[int, ...]
    nbytes: int
    digest: str


def write_weights(programs: Sequence[Weights], stream: BinaryIO) -> WeightTable:
    """Write the table, weights in the mappings' order.

    Args:
        programs: The weights of every program.
        stream: Where the bytes go.
    """
    seen: dict[bytes, int] = {}
    table = hashlib.sha256()
    position = 0

    def write(data: bytes | memoryview) -> None:
        nonlocal position
        stream.write(data)
        position += len(data)

    def place(array: npt.NDArray[np.generic]) -> int:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest()
        if key not in seen:
            write(bytes(-position % ALIGNMENT))
            table.update(key + position.to_bytes(8, "little"))
            seen[key] = position
            write(data)
        return seen[key]

    offsets = tuple({name: place(array) for name, array in weights.items()} for weights in programs)
    # Vector loads may run past the end of the last blob, but never past a multiple of the alignment.
    write(bytes(-position % ALIGNMENT))
    reads = tuple(
        sum({offset: weights[name].nbytes for name, offset in places.items()}.values())
        for weights, places in zip(programs, offsets, strict=True)
    )
    return WeightTable(offsets, reads, position, table.hexdigest())


def weights_assembly(symbol: str, architecture: str) -> str:
    """Assembler source of an empty section for the table, and of a pointer to it that stays in the library.

    Code reaches the pointer, and the pointer any distance.

    Args:
        symbol: Name of the pointer, in C a `const uint8_t *const`.
        architecture: The first part of the target's triple.
    """
    section = f'{_LARGE_SECTION}, "al"' if architecture == "x86_64" else f'{_SECTION}, "a"'
    return f"""\
    .section {section}, %progbits
    .balign {ALIGNMENT}
.Lweights:
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


def embed_weights(programs: Sequence[Weights], path: Path) -> WeightTable:
    """Write the table to an object file as the content of the empty section that `weights_assembly` makes.

    Args:
        programs: As for `write_weights`.
        path: An object file of 64-bit ELF, which is changed. Fields are as in "ELF-64 Object File Format" 1.5.
    """
    with path.open("r+b") as stream:
        content = stream.read()
        headers, size, count, names = struct.unpack_from("<Q10xHHH", content, 0x28)
        first_name = struct.unpack_from("<Q", content, headers + names * size + 24)[0]
        for header in range(headers, headers + count * size, size):
            start = first_name + struct.unpack_from("<I", content, header)[0]
            if content[start:].partition(b"\0")[0].decode() in (_SECTION, _LARGE_SECTION):
                break
        else:
            raise ValueError(f"{path} has no section {_SECTION}")
        stream.write(bytes(-len(content) % ALIGNMENT))
        position = stream.tell()
        table = write_weights(programs, stream)
        stream.seek(header + 24)
        stream.write(struct.pack("<QQ", position, table.nbytes))
    return table
