"""How much a whole model's answers suffer from the channels of each group.

What a group's channels cost the layers that read them, as far as the others make up for it, says nothing of what
becomes of that in the layers behind; what answers lose when half of the group goes does, but nothing makes up for it
there. Channels are compared between groups by the geometric mean of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.importance import Order
from lepton_compile.pruning.removal import remove

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

# How many samples tell what answers lose.
_SAMPLES = 64


def by_answers(graph: Graph, structure: Structure, orders: Sequence[Order], samples: Samples) -> list[Order]:
    """The same orders, with costs that can be compared between groups.

    Args:
        graph: The graph.
        structure: What `find_groups` says of it.
        orders: The order of each group whose channels may go.
        samples: Inputs of the graph.
    """
    few = samples[:: -(-len(samples) // _SAMPLES)]
    exact = _answers(graph, few)
    found = []
    for order in orders:
        half = len(order.channels) // 2
        lost = math.fsum(order.costs[:half])
        if not lost > 0:
            found.append(order)
            continue
        answers = _answers(remove(graph.copy(), structure, set(order.channels[:half])), few)
        scale = math.sqrt(_difference(answers, exact) / lost)
        found.append(replace(order, costs=tuple(scale * cost for cost in order.costs)))
    return found


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
