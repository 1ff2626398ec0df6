"""Channel pruning: channels that matter least go until a run is as fast as the budget asks for.

What goes together is found by following the indices of every axis through the operators
(`lepton_compile.pruning.groups`); which go first, by what the others cannot make up for
(`lepton_compile.pruning.importance`); how many of each group, by what that saves on the target for what it costs
(`lepton_compile.pruning.widths`). The layers that are left are fitted to the original's outputs, in closed form
(`lepton_compile.pruning.repair`). Samples that are held out judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_compile.model import Graph
from lepton_compile.pruning.groups import find_groups, weights_of
from lepton_compile.pruning.planning import Planner, TooSlow
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import Repair, apply
from lepton_compile.pruning.telling import followed, told
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage

if TYPE_CHECKING:
    from lepton_compile.target import Target

# How often what later passes make of a pruned graph may correct what was expected of them.
_ATTEMPTS = 3


@dataclass(frozen=True)
class ChannelPruning(Pass):
    """Remove channels under an accuracy contract.

    Attributes:
        removed: The indices of axes of tensors that go, with all that has to go with them.
        weights: New weights of some of the layers, by the names of those that they replace, compressed.
        offsets: What is added to the outputs of some of the layers.
    """

    name = "channel_pruning"
    stage = Stage.PRUNE
    exact = False

    removed: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    weights: tuple[tuple[str, str], ...] = ()
    offsets: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose the channels that go."""
        budget, measure, contract = target.budget.latency_s, context.measure, context.contract
        if budget is None:
            return Decline("there is no budget for latency, which channels would be removed for")
        if measure is None:
            return Decline("nothing says what a run takes")
        before = math.fsum(measure(graph).values())
        if before <= budget:
            return Decline(f"a run takes {before * 1e3:.3f} ms, and may take {budget * 1e3:.3f}")
        if contract is None:
            return Proposal(self, f"a run takes {before * 1e3:.3f} ms, and may take {budget * 1e3:.3f}")

        def outlook(pruned: Graph) -> float:
            if context.outlook is None:
                return math.fsum(measure(pruned).values())
            return context.outlook(pruned, self.stage)

        seconds = outlook(graph)
        if seconds <= budget:
            return Decline(f"a run takes {seconds * 1e3:.3f} ms without it, and may take {budget * 1e3:.3f}")
        planner = Planner(graph, target.vector_bytes // 4, contract, measure)
        goal = before
        for _ in range(_ATTEMPTS):
            goal *= budget / seconds
            pruned = planner.within(goal)
            if isinstance(pruned, TooSlow):
                return Decline(pruned.reason, pruned.refusals)
            if not pruned.holds:
                return Decline(f"the contract would not hold: {pruned.reason}", pruned.refusals, pruned.findings)
            rewrite = ChannelPruning(
                pruned.removed,
                tuple((name, told(values)) for name, values in pruned.repair.weights.items()),
                tuple(pruned.repair.offsets.items()),
            )
            seconds = outlook(rewrite.run(graph.copy(), context))
            if seconds <= budget:
                reason = f"{pruned.reason}; in the end {seconds * 1e3:.3f}, of {budget * 1e3:.3f} that it may take"
                return Proposal(rewrite, reason, pruned.refusals, pruned.findings)
        return Decline(f"a run takes {seconds * 1e3:.3f} ms, and may take {budget * 1e3:.3f}: {pruned.reason}")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Remove them, and let what is left make up for them."""
        structure = find_groups(graph)
        channels: set[int] = set()
        for name, axis, indices in self.removed:
            channels |= set(structure.axes[name][axis][np.array(indices, np.int64)].tolist())
        remove(graph, structure, channels)
        shapes = {constant.name: constant.shape for constant in weights_of(graph)}
        weights = {name: followed(text, shapes[name]) for name, text in self.weights}
        return apply(Repair(weights, dict(self.offsets)), graph)
