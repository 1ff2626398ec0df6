"""What a library and a run of it may take on a target, and what graphs take of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_compile.model import Graph
from lepton_compile.model.folding import bytes_of
from lepton_compile.reporting.quantities import format_amount
from lepton_compile.target.target import PROCESS_BYTES

if TYPE_CHECKING:
    from lepton_compile.rewriting.passes import Context
    from lepton_compile.target import Target


class Resource(enum.Enum):
    """What is limited."""

    LATENCY = "latency"
    SIZE = "size"
    MEMORY = "memory"


_TAKES = {
    Resource.LATENCY: "a run takes",
    Resource.SIZE: "the library takes",
    Resource.MEMORY: "a run takes at its peak",
}


@dataclass(frozen=True)
class Limit:
    """A resource of which so much may be taken.

    Attributes:
        resource: The resource.
        most: Seconds, or bytes.
        taken: What the library of a graph, or a run of it, takes.
    """

    resource: Resource
    most: float
    taken: Callable[[Graph], float]

    def amount(self, taken: float) -> str:
        """An amount for people."""
        return format_amount(self.resource.value, taken)

    def compared(self, taken: float, so: str = "") -> str:
        """What is taken, beside what may be, in one line.

        Args:
            taken: What is taken.
            so: Words that say when.
        """
        words = f" {so}" if so else ""
        return f"{_TAKES[self.resource]} {self.amount(taken)}{words}, and may take {self.amount(self.most)}"


def limits(graph: Graph, target: Target, context: Context) -> list[Limit]:
    """The limits that what becomes of a graph has to keep: of the target's budget, and of its memory.

    Those that the context has no means to tell what graphs take of are left out, and so is the target's memory where
    the graph would fit even if nothing shared any.
    """
    budget, found = target.budget, list[Limit]()
    measure, size, memory = context.measure, context.size, context.memory
    if budget.latency_s is not None and measure is not None:
        found.append(Limit(Resource.LATENCY, budget.latency_s, lambda graph: math.fsum(measure(graph).values())))
    if budget.size_bytes is not None and size is not None:
        found.append(Limit(Resource.SIZE, budget.size_bytes, size))
    most = math.inf if budget.memory_bytes is None else budget.memory_bytes
    if (memory_of_target := target.resources.memory_bytes) is not None:
        available = memory_of_target - PROCESS_BYTES - sum(map(bytes_of, (*graph.gs.inputs, *graph.gs.outputs)))
        most = min(most, max(available, 0)) if available < _all_bytes(graph) else most
    if most < math.inf and memory is not None:
        found.append(Limit(Resource.MEMORY, most, memory))
    return found


def fit(limited: Sequence[Limit], taken: Sequence[float]) -> bool:
    """Whether what is taken is no more than may be."""
    return all(each <= limit.most for limit, each in zip(limited, taken, strict=True))


def _all_bytes(graph: Graph) -> int:
    """What all tensors take together."""
    return sum(bytes_of(tensor) for tensor in graph.gs.tensors().values() if tensor.shape is not None and tensor.dtype)
