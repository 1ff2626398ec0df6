"""HTML pages that need nothing beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """\
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1140px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: 0.15em 0.7em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap }
svg { width: 100%; height: auto }
.key span { display: inline-block; width: 0.9em; height: 0.9em; margin: 0 0.3em 0 1em }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A page with this title and these elements."""
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns of numbers are set flush right."""
    listed = list(rows)
    width = len(header) or len(listed[0])
    numbers = [all(_is_number(row[column]) for row in listed) for column in range(width)]

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (" class=number" if number else "" for number in numbers)
        marked = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(marked)}</tr>"

    return "\n".join(
        ["<table>", *([line(header, "th")] if header else []), *(line(row, "td") for row in listed), "</table>"]
    )


def _is_number(text: str) -> bool:
    return not text or text.lstrip("-")[:1].isdigit()
