"""Writing TOML, as much of it as a target file needs: the standard library reads it only."""

from __future__ import annotations

import json
from collections.abc import Mapping


def toml_text(document: Mapping[str, object]) -> str:
    """A document of values, of tables of values and of lists of such tables as TOML; what is empty is left out.

    Values are strings, booleans, numbers, and lists of them.
    """
    top, tables = {}, []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += [f"[{key}]\n{_lines(value)}"] if value else []
        elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            tables += [f"[[{key}]]\n{_lines(item)}" for item in value]
        else:
            top[key] = value
    return "\n".join(part for part in (_lines(top), *tables) if part)


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    # JSON's strings, numbers and lists are TOML's, but that TOML wants U+007F escaped and no surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
