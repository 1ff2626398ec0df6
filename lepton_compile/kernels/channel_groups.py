"""How the groups of a convolution lie in blocks of output channels, where they begin inside blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from lepton_compile.kernels.loops import when


@dataclass(frozen=True)
class Segment:
    """Neighbouring output channels of a block that are of one group.

    Attributes:
        group: The group.
        begin: The lane at which the group begins; below 0 if in front of the block.
    """

    group: tirx.Expr
    begin: tirx.Expr | int


@dataclass(frozen=True)
class ChannelGroups:
    """Groups of output channels, cut into blocks without regard to where a group begins.

    Attributes:
        outputs: Output channels of one group.
        groups: Groups.
        lanes: Channels in a block.
    """

    outputs: int
    groups: int
    lanes: int

    def counts(self) -> list[int]:
        """How many groups each block has channels of."""
        channels = self.outputs * self.groups
        begins = range(0, channels, self.lanes)
        return [(min(b + self.lanes, channels) - 1) // self.outputs - b // self.outputs + 1 for b in begins]

    def kinds(self) -> list[tuple[int, int]]:
        """How many groups a block has by its distance from where its first group begins: (distance not reached, count).

        The count changes with that distance alone, except that no group begins behind the last one.
        """
        by_distance: dict[int, int] = {}
        for block, count in enumerate(self.counts()):
            distance = block * self.lanes % self.outputs
            by_distance[distance] = max(count, by_distance.get(distance, 0))
        merged: list[tuple[int, int]] = []
        for distance, count in sorted(by_distance.items()):
            if merged and merged[-1][1] == count:
                merged.pop()
            merged.append((distance + 1, count))
        return merged

    def by_kind(self, block: tirx.Expr, code: Callable[[Sequence[Segment]], tirx.Stmt]) -> tirx.Stmt:
        """The statements of a block, from the function that gives them for the groups that it has channels of."""
        begin = block * self.lanes
        first, distance = tirx.floordiv(begin, self.outputs), tirx.floormod(begin, self.outputs)

        def of_kind(count: int) -> tirx.Stmt:
            # The last block may have fewer groups than the code is for: lanes past the last one are padding.
            groups = [first, *(tirx.min(first + number, self.groups - 1) for number in range(1, count))]
            begins = [(first + number) * self.outputs - begin for number in range(count)]
            return code([Segment(group, at) for group, at in zip(groups, begins, strict=True)])

        *kinds, (_, rest) = self.kinds()
        result = of_kind(rest)
        for end, count in reversed(kinds):
            result = when(distance < end, of_kind(count), result)
        return result
