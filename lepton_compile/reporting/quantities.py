"""Quantities for people."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """A size for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_seconds(seconds: float) -> str:
    """A time for people: 0.0015 is "1.500 ms"."""
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} us"


def format_amount(resource: str, taken: float) -> str:
    """What is taken of a resource, for people: of "latency" seconds, of others bytes."""
    return format_seconds(taken) if resource == "latency" else format_bytes(taken)
