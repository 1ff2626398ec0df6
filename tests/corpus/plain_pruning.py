"""What pruning is compared with: the channels of least L1 norm go, and nothing makes up for them (Li et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from corpus.multiplications import multiplications
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import find_groups
from lepton_compile.pruning.importance import Importance, orders
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.uses import channels_of


def of_widths(graph: Graph, widths: Sequence[int]) -> Graph:
    """With so many channels left of each group that may be pruned."""
    structure = find_groups(graph)
    order = orders(graph, structure, Importance.L1)
    gone = [len(each.channels) - left for each, left in zip(order, widths, strict=True)]
    return remove(graph.copy(), structure, channels_of(order, gone))


def uniform(graph: Graph, most: float) -> Graph:
    """With the same share left of every group, the largest that takes no more multiply-adds than this."""
    sizes = [len(group.channels) for group in find_groups(graph).prunable]
    # All shares at which the width of some group changes.
    for share in sorted({left / size for size in sizes for left in range(1, size + 1)}, reverse=True):
        pruned = of_widths(graph, [max(1, math.floor(share * size + 1e-9)) for size in sizes])
        if total(multiplications(pruned).values()) <= most:
            return pruned
    raise ValueError(f"no widths take so few as {most} multiply-adds")


def total(counts: Iterable[float]) -> float:
    """All together."""
    return math.fsum(counts)
