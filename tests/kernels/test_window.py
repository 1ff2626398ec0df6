"""The geometry of windows, against counting."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from tvm import sym, tirx

from lepton_compile.kernels.window import Window, tile_row

windows = st.builds(
    Window,
    input=st.integers(1, 12),
    positions=st.integers(1, 14),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pad=st.integers(-3, 5),
    step=st.integers(1, 3),
    offset=st.integers(0, 2),
)


def value(expression: tirx.Expr | int) -> int:
    """A constant expression's value."""
    return int(sym.Analyzer().simplify(expression)) if isinstance(expression, tirx.Expr) else expression


@given(windows)
def test_the_taps_inside_are_those_that_the_loop_visits(window: Window) -> None:
    for position in range(window.positions):
        inside = [
            tap
            for tap in range(window.kernel)
            if 0 <= position * window.stride - window.pad + tap * window.dilation < window.input
        ]
        assert [tap for tap in range(window.kernel) if window.inside(position, tap)] == inside
        assert window.sees_outside(position) == (len(inside) < window.kernel)
        first, count = (value(part) for part in window.taps(tirx.const(position, "int32")))
        assert list(range(first, first + count)) == inside
        assert value(window.stored_at(tirx.const(position, "int32"))) == position * window.step + window.offset


def test_identities_are_found() -> None:
    sizes, few = range(1, 5), (1, 2)
    for size, positions, kernel, stride, pad, step, offset in itertools.product(
        sizes, sizes, few, few, (0, 1), few, (0, 1)
    ):
        window = Window(size, positions, kernel, stride, 1, pad, step, offset)
        seen = [[window.first(p) + tap for tap in range(kernel)] for p in range(positions)]
        stored = [p * step + offset for p in range(positions)]
        same = seen == [[p] for p in range(size)] and stored == list(range(size))
        # With one position, its stride and the step of its place do not show; nobody asks for such windows.
        assert window.is_identity() == same or (size == positions == 1 and not window.is_identity())


@given(windows, st.integers(1, 9))
def test_tiles_cover_a_row_once_and_know_their_borders(window: Window, width: int) -> None:
    row = tile_row(window, width)
    covered = []
    for tiles in row:
        assert tiles.width <= width
        for tile in range(tiles.count):
            begin = tiles.begin + tile * tiles.width
            positions = range(begin, begin + tiles.width)
            covered += positions
            assert any(window.sees_outside(p) for p in positions) == tiles.border
        assert tiles.count == 1 or not tiles.border
    assert covered == list(range(window.positions))
    for one, other in itertools.pairwise(row):
        assert one.border or other.border or one.width != other.width, "two loops where one would do"
