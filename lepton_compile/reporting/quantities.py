"""Quantities for people."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """A size for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_amount(resource: str, taken: float) -> str:
    """What is taken of a resource, for people: of "latency" seconds, of others bytes."""
    return f"{taken * 1e3:.3f} ms" if resource == "latency" else format_bytes(taken)
