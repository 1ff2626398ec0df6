"""The geometry of sliding windows: which inputs an output position sees, and where the borders are.

Shared by convolution, depthwise convolution and pooling. Padding is never copied: a row's taps outside the input are
left out of the loop over the kernel's rows, and along the innermost axis the columns at a border get code of their own.
Where code is to be small, columns at borders, and those that fill no tile, go one by one through the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from lepton_compile.kernels.loops import rolled, sequence, serial


@dataclass(frozen=True)
class Window:
    """One spatial axis of a sliding window.

    Output position p sees inputs p * stride - pad + tap * dilation for taps in [0, kernel).

    Attributes:
        input: Extent of the input.
        positions: How many output positions are computed.
        kernel: Taps.
        stride: Inputs between neighbouring windows.
        dilation: Inputs between neighbouring taps.
        pad: Positions before the first input that the first window sees; negative if it starts inside.
        step: Position p is stored at p * step + offset (transposed convolution computes every step-th one).
        offset: See `step`.
    """

    input: int
    positions: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    pad: int = 0
    step: int = 1
    offset: int = 0

    def first(self, position: int) -> int:
        """The input, perhaps outside, that the first tap sees."""
        return position * self.stride - self.pad

    def sees_outside(self, position: int) -> bool:
        """Whether some tap of a position lies outside the input."""
        first = self.first(position)
        return first < 0 or first + (self.kernel - 1) * self.dilation >= self.input

    def inside(self, position: int, tap: int) -> bool:
        """Whether one tap of a position lies inside the input."""
        return 0 <= self.first(position) + tap * self.dilation < self.input

    def seen(self, position: int) -> int:
        """How many taps of a position lie inside the input."""
        return sum(self.inside(position, tap) for tap in range(self.kernel))

    def of_neighbours(self, count: int) -> Window:
        """The window of so many neighbouring positions, the first of which is a multiple of that; not dilated."""
        return replace(
            self,
            positions=-(-self.positions // count),
            kernel=self.kernel + (count - 1) * self.stride,
            stride=count * self.stride,
        )

    def is_identity(self) -> bool:
        """Whether every output position sees exactly the input at the same position."""
        facts = (self.kernel, self.stride, self.pad, self.step, self.offset)
        return facts == (1, 1, 0, 1, 0) and self.input == self.positions

    def taps(self, position: tirx.Expr) -> tuple[tirx.Expr | int, tirx.Expr | int]:
        """First tap inside the input and how many there are, for a position known only at run time."""
        if not any(self.sees_outside(p) for p in range(self.positions)):
            return 0, self.kernel
        start = position * self.stride - self.pad
        first = tirx.max(0, tirx.floordiv(self.dilation - 1 - start, self.dilation))
        last = tirx.min(self.kernel, tirx.floordiv(self.input - start + self.dilation - 1, self.dilation))
        return first, tirx.max(0, last - first)

    def counted(self, position: tirx.Expr | int, extent: int) -> tirx.Expr:
        """Taps that see the input or its padding, given the extent of both."""
        room = extent - position * self.stride + self.dilation - 1
        return tirx.min(self.kernel, tirx.floordiv(room, self.dilation))

    def stored_at(self, position: tirx.Expr) -> tirx.Expr:
        """The output's index for a position."""
        return position if self.step == 1 and self.offset == 0 else position * self.step + self.offset


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution.

    Attributes:
        batch: Images.
        inputs: Input channels of one group.
        outputs: Output channels of one group.
        groups: Groups.
        windows: One per spatial axis.
    """

    batch: int
    inputs: int
    outputs: int
    groups: int
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Tiles:
    """Some tiles of equal width along the innermost axis.

    Attributes:
        begin: First position of the first tile.
        width: Positions in a tile.
        count: How many tiles; more than one only where no tap is outside.
        border: Whether some tap of the (single) tile lies outside, or may: of tiles of width 1 whose position is known
            only at run time.
    """

    begin: int
    width: int
    count: int
    border: bool


def tile_row(window: Window, width: int) -> list[Tiles]:
    """Cover a row by tiles of at most `width` positions, tiles without a border gathered into one loop."""
    covered: list[Tiles] = []
    for begin in range(0, window.positions, width):
        actual = min(width, window.positions - begin)
        border = any(window.sees_outside(p) for p in range(begin, begin + actual))
        previous = covered[-1] if covered else None
        if previous and not previous.border and not border and previous.width == actual:
            covered[-1] = Tiles(previous.begin, actual, previous.count + 1, False)
        else:
            covered.append(Tiles(begin, actual, 1, border))
    return covered


def over_row(
    window: Window, width: int, tile: Callable[[tirx.Expr | int, Tiles], tirx.Stmt], *, small: bool = False
) -> tirx.Stmt:
    """The statements of a row, from the function that gives those of the tile that starts at a position.

    Args:
        window: The innermost axis.
        width: The most positions in a tile.
        tile: The function.
        small: Whether code is to be small; at a border the function then gets positions known only at run time.
    """
    if small:
        return _over_row_in_two(window, width, tile)
    return sequence(_each_tile(tiles, tile) for tiles in tile_row(window, width))


def inner_tiles(window: Window, width: int) -> Tiles:
    """As many tiles of full width as have no border."""
    inside = [p for p in range(window.positions) if not window.sees_outside(p)]
    return Tiles(inside[0] if inside else 0, width, len(inside) // width, False)


def _over_row_in_two(window: Window, width: int, tile: Callable[[tirx.Expr | int, Tiles], tirx.Stmt]) -> tirx.Stmt:
    inner = inner_tiles(window, width)
    covered = inner.count * width
    others = window.positions - covered

    def other(index: tirx.Expr) -> tirx.Stmt:
        position = tirx.Select(index < inner.begin, index, index + covered) if covered else index
        return tile(position, Tiles(0, 1, others, True))

    parts = [_each_tile(inner, tile)] if covered else []
    return sequence([*parts, rolled(others, other)] if others else parts)


def _each_tile(tiles: Tiles, tile: Callable[[tirx.Expr | int, Tiles], tirx.Stmt]) -> tirx.Stmt:
    if tiles.count == 1:
        return tile(tiles.begin, tiles)
    return serial(tiles.count, lambda index: tile(index * tiles.width + tiles.begin, tiles), "wo")
