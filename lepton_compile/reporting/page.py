"""A report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lepton_compile.reporting.html import document, table
from lepton_compile.reporting.sections import Section


def page(title: str, sections: Iterable[Section]) -> str:
    """The text of a page that shows these sections."""
    parts = []
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{escape(section.text)}</p>")
        parts += section.pictures
        if section.rows:
            parts.append(table(section.header, section.rows))
    return document(title, parts)
