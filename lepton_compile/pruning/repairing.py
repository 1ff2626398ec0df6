"""What makes up for removed channels: least squares, and behind it Adam where data and resources allow."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.model import Graph
from lepton_compile.pruning.groups import Structure
from lepton_compile.pruning.optimizer import SECONDS, Choice, Work, choose, held_bytes
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import Repair, Samples, find_repair
from lepton_compile.target import Target

LEAST_SQUARES = "least squares"
ADAM = "Adam behind least squares"

# Of so many samples one tells Adam when to stop, and is seen by neither optimizer.
_JUDGING = 5


@dataclass(frozen=True)
class Repairs:
    """What was found.

    Attributes:
        found: Repairs, by the optimizers that found them; which is best is for other samples to say.
        reason: Which optimizers were taken, why, and what became of it, in one line.
    """

    found: Mapping[str, Repair]
    reason: str


def find_repairs(
    graph: Graph, structure: Structure, channels: Set[int], samples: Samples, machine: Target | None
) -> Repairs:
    """What lets what is left of a graph answer as all of it did.

    Args:
        graph: The original.
        structure: What `find_groups` says of it.
        channels: What is removed.
        samples: Inputs, at least one.
        machine: The machine that compiles; None: not known.
    """
    held = held_bytes(machine)
    pruned = remove(graph.copy(), structure, channels)
    judging = samples[_JUDGING // 2 :: _JUDGING]
    learning = [each for number, each in enumerate(samples) if number % _JUDGING != _JUDGING // 2]
    choice = choose(Work.of(graph, pruned, len(learning)), machine)
    if not choice.epochs:
        return Repairs({LEAST_SQUARES: find_repair(graph, pruned, structure, channels, samples, held)}, choice.reason)
    # Neither optimizer sees the samples that judge, so that both are judged alike.
    start = find_repair(graph, pruned.copy(), structure, channels, learning, held)
    learned, became = _distilled(graph, pruned, start, structure, channels, learning, judging, choice)
    if learned is None:
        start = find_repair(graph, pruned, structure, channels, samples, held)
    found = {LEAST_SQUARES: start} | ({} if learned is None else {ADAM: learned})
    return Repairs(found, f"{choice.reason}; {became}")


def _distilled(
    graph: Graph,
    pruned: Graph,
    start: Repair,
    structure: Structure,
    channels: Set[int],
    learning: Samples,
    judging: Samples,
    choice: Choice,
) -> tuple[Repair | None, str]:
    """What Adam makes of what least squares found, and what to say of it."""
    from lepton_compile.pruning.distillation import distil  # so that PyTorch is imported where it is needed alone

    try:
        made = distil(
            graph,
            pruned.copy(),
            start,
            structure,
            channels,
            learning,
            judging,
            epochs=choice.epochs,
            batch=choice.batch,
            cycles=choice.cycles,
            seconds=SECONDS,
            threads=choice.threads,
        )
    except UnsupportedOperatorError as error:
        return None, f"least squares alone, as {error}"
    late = ", for more of which there was no time," if made.late else ""
    if made.repair is None:
        return None, f"after {made.epochs} passes{late} nothing was better than what least squares had found"
    fell = f"the error on {len(judging)} other samples fell from {made.before:.3g} to {made.after:.3g}"
    return made.repair, f"after {made.epochs} passes at a rate of {made.rate:g}{late} {fell}"
