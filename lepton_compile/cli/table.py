"""Tables on stdout: fitted to a terminal, never cut or wrapped in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence


def print_table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> None:
    """Print rows of texts under each other, with a header where there is one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *header, box=None, show_header=bool(header), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 100_000).print(table)


def format_bytes(count: float) -> str:
    """A size for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_shape(shape: Sequence[object]) -> str:
    """A shape for people: (1, 3, "height") is "1x3xheight", and that of a scalar "scalar"."""
    return "x".join(str(size) for size in shape) or "scalar"
