"""Quantities as people write them ("1.5 GHz", "512 KiB", "4.0 GB/s", "5 ms"), read and written without rounding."""

from __future__ import annotations

import re
from fractions import Fraction

# SI prefixes are powers of 1000, IEC 80000-13's binary ones powers of 1024.
_BYTES: dict[str, Fraction] = {
    "B": Fraction(1),
    **{f"{prefix}B": Fraction(1000**power) for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": Fraction(1024**power) for power, prefix in enumerate("KMGT", 1)},
}
UNITS: dict[str, dict[str, Fraction]] = {
    "bytes": _BYTES,
    "bytes per second": {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    "hertz": {"Hz": Fraction(1), "kHz": Fraction(10**3), "MHz": Fraction(10**6), "GHz": Fraction(10**9)},
    "seconds": {"us": Fraction(1, 10**6), "ms": Fraction(1, 10**3), "s": Fraction(1)},
}
"""The units that each kind of quantity may be written in."""

EXAMPLES = {"bytes": "512 KiB", "bytes per second": "4.0 GB/s", "hertz": "1.5 GHz", "seconds": "5 ms"}

# Beyond this, the numbers would not fit the 64-bit integers of the libraries that they end in.
_LIMIT = 2**63


def parse_quantity(value: object, kind: str) -> Fraction:
    """Read a quantity in its base unit.

    Args:
        value: A number and its unit, such as "1.5 GHz".
        kind: A key of `UNITS`.

    Raises:
        ValueError: Says what is wrong with it.
    """
    match = re.fullmatch(r"([+-]?)(\d+(?:\.\d+)?) ?([A-Za-z/]+)", value, re.ASCII) if isinstance(value, str) else None
    units = UNITS[kind]
    # Capital K is how most people write a thousand bytes.
    unit = re.sub(r"^K(?=B|Hz)", "k", match[3]) if match else ""
    if match is None or unit not in units:
        raise ValueError(f'must be a number and its unit ({", ".join(units)}), for example "{EXAMPLES[kind]}"')
    if match[1] == "-":
        raise ValueError("must not be negative")
    amount = Fraction(match[2]) * units[unit]
    if amount >= _LIMIT:
        raise ValueError("is larger than any machine's")
    return amount


def format_quantity(amount: Fraction | int | float, kind: str) -> str:
    """Write a quantity so that `parse_quantity` reads the same number: in the largest unit that needs few digits."""
    # The shortest decimal number that stands for a float is what it was read from.
    exact = Fraction(repr(amount)) if isinstance(amount, float) else Fraction(amount)
    units = sorted(UNITS[kind].items(), key=lambda item: item[1], reverse=True)
    for places in (1, 3):
        for unit, factor in units:
            scaled = exact / factor
            if scaled >= 1 and (scaled * 10**places).denominator == 1:
                return f"{_decimal(scaled)} {unit}"
    unit, factor = units[-1]
    return f"{_decimal(exact / factor)} {unit}"


def _decimal(number: Fraction) -> str:
    """A fraction of a power of ten, digit by digit."""
    whole, rest = divmod(number, 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    return f"{whole}.{digits}" if digits else str(whole)
