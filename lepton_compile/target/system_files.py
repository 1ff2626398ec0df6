"""Reading what Linux tells of a machine under /proc and /sys, where any file may be missing or hold anything."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """A file's text; empty where there is none, as in many virtual machines."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """A file's number; None where there is none above 0."""
    text = read_text(path)
    return int(text) if text.isdecimal() and int(text) else None


def one_line(text: str) -> str:
    """A text as a name that a target file may hold: printable, single spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
