"""Writing TOML, as much of it as a target file needs: the standard library reads it only."""

from __future__ import annotations

import json
from collections.abc import Mapping


def toml_text(document: Mapping[str, object]) -> str:
    """A document of values and of tables of values as TOML; empty tables are left out.

    Values are strings, booleans, numbers, and lists of them.
    """
    top = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in document.items() if isinstance(value, Mapping) and value}
    parts = [_lines(top), *(f"[{name}]\n{_lines(table)}" for name, table in tables.items())]
    return "\n".join(part for part in parts if part)


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    # JSON's strings, numbers and lists are TOML's, but that TOML wants U+007F escaped and no surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
