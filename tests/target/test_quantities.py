"""Quantities are read exactly, written so that they read back, and refused with a reason."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.target.quantities import EXAMPLES, UNITS, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("1.5 GHz", "hertz", 1_500_000_000),
        ("2599.998 MHz", "hertz", 2_599_998_000),
        ("4 GB", "bytes", 4_000_000_000),
        ("4GiB", "bytes", 4 * 2**30),
        ("512 KiB", "bytes", 512 * 1024),
        ("512 KB", "bytes", 512_000),
        ("64 kB", "bytes", 64_000),
        ("0 B", "bytes", 0),
        ("+3 B", "bytes", 3),
        ("4.8 GB/s", "bytes per second", 4_800_000_000),
        ("1.5 GiB/s", "bytes per second", 3 * 2**29),
        ("5 ms", "seconds", Fraction(1, 200)),
    ],
)
def test_what_is_written_is_read_exactly(text, kind, amount):
    assert parse_quantity(text, kind) == amount


@pytest.mark.parametrize(
    ("value", "kind", "part"),
    [
        (4, "bytes", "unit"),
        (4.5, "bytes", "unit"),
        (True, "bytes", "unit"),
        (None, "bytes", "unit"),
        ("", "bytes", "unit"),
        ("4", "bytes", "unit"),
        ("GB", "bytes", "unit"),
        ("4 gb", "bytes", "GiB"),
        ("4 Gb", "bytes", "GiB"),
        ("4 GHz", "bytes", "512 KiB"),
        ("4 GB", "bytes per second", "GB/s"),
        ("1,5 GHz", "hertz", "1.5 GHz"),
        ("1e9 Hz", "hertz", "1.5 GHz"),
        ("nan GB", "bytes", "unit"),
        ("٤ GB", "bytes", "unit"),
        ("-4 GB", "bytes", "negative"),
        ("9999999999999 GB", "bytes", "larger"),
    ],
)
def test_what_is_no_quantity_is_refused(value, kind, part):
    with pytest.raises(ValueError, match=part):
        parse_quantity(value, kind)


@given(st.integers(0, 2**63 - 1), st.sampled_from(["bytes", "bytes per second", "hertz"]))
def test_whole_amounts_read_back(amount, kind):
    assert parse_quantity(format_quantity(amount, kind), kind) == amount


@given(st.floats(1e-9, 1e6))
def test_seconds_read_back(seconds):
    assert float(parse_quantity(format_quantity(seconds, "seconds"), "seconds")) == seconds


@pytest.mark.parametrize(
    ("amount", "kind", "text"),
    [
        (4_000_000_000, "bytes", "4 GB"),
        (2**20, "bytes", "1 MiB"),
        (48 * 1024, "bytes", "48 KiB"),
        (1_500_000_000, "hertz", "1.5 GHz"),
        (0.005, "seconds", "5 ms"),
        (0, "bytes", "0 B"),
    ],
)
def test_amounts_are_written_as_people_would(amount, kind, text):
    assert format_quantity(amount, kind) == text


def test_every_kind_has_an_example_that_can_be_read():
    assert EXAMPLES.keys() == UNITS.keys()
    for kind, example in EXAMPLES.items():
        assert parse_quantity(example, kind) > 0
