"""How the groups of a convolution lie in blocks of output channels, where they begin inside blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from lepton_compile.kernels.loops import when

# For each block of a tile the first and the last group that it has channels of, counted from the tile's first one.
Kind = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Segment:
    """Neighbouring output channels of a tile that are of one group.

    Attributes:
        group: The group.
        begin: Where in the tile the group begins; below 0 if in front of it.
    """

    group: tirx.Expr
    begin: tirx.Expr | int


@dataclass(frozen=True)
class ChannelGroups:
    """Groups of output channels, cut into tiles of blocks without regard to where a group begins.

    Attributes:
        outputs: Output channels of one group.
        groups: Groups.
        lanes: Channels in a block.
        blocks: Blocks in a tile.
    """

    outputs: int
    groups: int
    lanes: int
    blocks: int

    @property
    def tile_channels(self) -> int:
        """Channels in a tile."""
        return self.blocks * self.lanes

    @property
    def tiles(self) -> range:
        """The first channel of every tile."""
        return range(0, self.outputs * self.groups, self.tile_channels)

    def of(self, begin: int, end: int) -> tuple[int, int]:
        """The first and the last group that channels from `begin` to before `end` belong to."""
        last = self.outputs * self.groups - 1
        return min(begin, last) // self.outputs, min(end - 1, last) // self.outputs

    def kinds(self) -> list[tuple[int, Kind]]:
        """The ways in which groups lie in tiles, each with the distance from a group's begin that it does not reach.

        They change with that distance alone, except that no group begins behind the last one.
        """
        by_distance: dict[int, Kind] = {}
        for begin in self.tiles:
            group, distance = divmod(begin, self.outputs)
            blocks = range(begin, begin + self.tile_channels, self.lanes)
            kind = tuple((a - group, b - group) for a, b in (self.of(block, block + self.lanes) for block in blocks))
            # The last tile has fewer groups in it than another at the same distance.
            by_distance[distance] = max(kind, by_distance.get(distance, kind))
        merged: list[tuple[int, Kind]] = []
        for distance, kind in sorted(by_distance.items()):
            if merged and merged[-1][1] == kind:
                merged.pop()
            merged.append((distance + 1, kind))
        return merged

    def by_kind(self, tile: tirx.Expr, code: Callable[[Sequence[Sequence[Segment]]], tirx.Stmt]) -> tirx.Stmt:
        """The statements of a tile, from the function that gives them for the groups of each of its blocks."""
        begin = tile * self.tile_channels
        first, distance = tirx.floordiv(begin, self.outputs), tirx.floormod(begin, self.outputs)

        def segment(number: int) -> Segment:
            group = tirx.min(first + number, self.groups - 1) if number else first
            return Segment(group, (first + number) * self.outputs - begin)

        def of_kind(kind: Kind) -> tirx.Stmt:
            return code([[segment(number) for number in range(a, b + 1)] for a, b in kind])

        *others, (_, rest) = self.kinds()
        result = of_kind(rest)
        for end, kind in reversed(others):
            result = when(distance < end, of_kind(kind), result)
        return result
