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


def format_shape(shape: Sequence[object] | None) -> str:
    """A shape for people: "[1, 3, height, ?]", a question mark where nothing short is known of a size."""
    return "of unknown rank" if shape is None else f"[{', '.join(map(format_size, shape))}]"


def format_size(size: object) -> str:
    """A size, the name of one, or "?" for none and for a formula that some exporters write for a name."""
    text = "?" if size is None else str(size)
    return text if len(text) <= 32 else "?"
