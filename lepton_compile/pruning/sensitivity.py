"""How much a whole model's answers suffer from the channels of each group.

What a group's channels cost the layers that read them says nothing of what becomes of that in the layers behind. What
answers lose when half of the group goes does, once the layers that read it make up for what they can. So costs are what
that half costs together, and are parted among channels by what they cost the layers that read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.optimizer import multiply_adds
from lepton_compile.pruning.products import find_products
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import apply, find_repair

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# How many samples tell what answers lose: at least, at most, and as many as so many multiply-adds allow.
_SAMPLES = 8, 64
_MULTIPLY_ADDS = 2.0**34
# How many vectors a layer is fitted with for each of its inputs, and how many times as many samples that may take.
_VECTORS = 4
_MOST_FITTED = 4


def by_answers(graph: Graph, structure: Structure, orders: Sequence[Order], samples: Samples) -> list[Order]:
    """The same orders, with costs that can be compared between groups.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        orders: The order of each group whose channels may go.
        samples: Inputs of the graph.
    """
    few = int(np.clip(_MULTIPLY_ADDS / max(multiply_adds(graph), 1.0), *_SAMPLES))
    distance = -(-len(samples) // few)
    judging = samples[::distance]
    # What is fitted to samples shows on others what it is worth.
    fitting = [sample for number, sample in enumerate(samples) if number % distance] or judging
    exact = _answers(graph, judging)
    found = []
    for order in orders:
        half = len(order.channels) // 2
        lost = math.fsum(order.costs[:half])
        if not lost > 0:
            found.append(order)
            continue
        channels = set(order.channels[:half])
        enough = fitting[: max(few // 2, min(_enough(graph, structure, channels), _MOST_FITTED * few))]
        repair = find_repair(
            graph, remove(graph.copy(), structure, channels), structure, channels, enough, at_once=True
        )
        answers = _answers(apply(repair, remove(graph.copy(), structure, channels)), judging)
        scale = _difference(answers, exact) / lost
        found.append(replace(order, costs=tuple(scale * cost for cost in order.costs)))
    return found


def _enough(graph: Graph, structure: Structure, channels: Set[int]) -> int:
    """How many samples the layers that read these channels are fitted with."""
    pruned = remove(graph.copy(), structure, channels)
    reading = (each for each in find_products(graph, pruned, structure, channels) if each.loses_inputs)
    return max((math.ceil(_VECTORS * each.inputs / each.vectors) for each in reading), default=0)


def _answers(graph: Graph, samples: Samples) -> list[Mapping[str, Array]]:
    session = graph.session()
    return [session.run(sample) for sample in samples]


def _difference(answers: Sequence[Mapping[str, Array]], exact: Sequence[Mapping[str, Array]]) -> float:
    """Squares of the differences over squares, of the output that has the largest."""
    found = 0.0
    for name, first in exact[0].items():
        if first.dtype.kind == "f":
            ones, others = (np.concatenate([each[name].reshape(-1) for each in every]) for every in (answers, exact))
            power = float(np.square(others, dtype=np.float64).sum())
            found = max(found, float(np.square(ones - others, dtype=np.float64).sum()) / (power or 1.0))
    return found if math.isfinite(found) else 1.0
