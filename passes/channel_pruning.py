"""Channel pruning: channels that matter least go until the library and its runs take no more than they may.

What goes together is found by following the indices of every axis through the operators
(`lepton_compile.pruning.groups`); which go first, by what the others cannot make up for
(`lepton_compile.pruning.importance`); how many of each group, by what that saves on the target for what it costs
(`lepton_compile.pruning.widths`). The layers that are left are fitted to the original's outputs, in closed form
(`lepton_compile.pruning.repair`). Samples that are held out judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lepton_compile.model import Graph
from lepton_compile.model.fingerprints import fingerprint
from lepton_compile.pruning.groups import find_groups, weights_of
from lepton_compile.pruning.planning import Planner, TooMuch
from lepton_compile.pruning.removal import remove
from lepton_compile.pruning.repair import Repair, apply
from lepton_compile.pruning.telling import followed, told
from lepton_compile.rewriting.limits import Limit, Resource, fit, limits
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage

if TYPE_CHECKING:
    from lepton_compile.target import Target

# How often what later passes make of a pruned graph may correct what was expected of them: a minute each time.
_ATTEMPTS = 3
# What share of what may be taken is near enough to it.
_CLOSE = 0.9


@dataclass(frozen=True)
class ChannelPruning(Pass):
    """Remove channels under an accuracy contract.

    Attributes:
        removed: The indices of axes of tensors that go, with all that has to go with them.
        weights: New weights of some of the layers, by the names of those that they replace, compressed.
        offsets: What is added to the outputs of some of the layers.
        left: What share of a run's time is left, whatever the budgets; None: what they ask for.
    """

    name = "channel_pruning"
    stage = Stage.PRUNE
    exact = False
    choices: ClassVar[Mapping[str, Sequence[object]]] = {"left": (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)}

    removed: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    weights: tuple[tuple[str, str], ...] = ()
    offsets: tuple[tuple[str, tuple[float, ...]], ...] = ()
    left: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ValueError: `left` is no share.
        """
        if self.left is not None and not (isinstance(self.left, (int, float)) and 0 < self.left <= 1):
            raise ValueError("left is a share of a run's time: a number above 0 and at most 1")

    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Propose the channels that go."""
        contract = context.contract
        limited = limits(graph, target, context) if self.left is None else self._asked(graph, context)
        if not limited:
            return Decline("there is no budget that channels would be removed for")

        def compared(taken: Sequence[float], so: str = "") -> str:
            return "; ".join(limit.compared(each, so) for limit, each in zip(limited, taken, strict=True))

        before = [limit.taken(graph) for limit in limited]
        if fit(limited, before):
            return Decline(compared(before))
        if contract is None:
            return Proposal(self, compared(before))

        def later(pruned: Graph) -> list[float]:
            if self.left is None and context.outlook is not None:
                pruned = context.outlook(pruned, self.stage)
            return [limit.taken(pruned) for limit in limited]

        taken = later(graph)
        if fit(limited, taken):
            return Decline(compared(taken, "without it"))
        key = "channels", fingerprint(graph), *(limit.resource for limit in limited)
        planner = contract.once(key, lambda: Planner(graph, target.vector_bytes // 4, context, limited))

        def nearer(goals: Sequence[float], taken: Sequence[float]) -> list[float]:
            """Goals by which so much would be taken as may be, where these gave what is taken."""
            pairs = zip(before, goals, limited, taken, strict=True)
            return [min(whole, goal * limit.most / each) for whole, goal, limit, each in pairs]

        # Later passes decline where they alone cannot keep a budget for bytes: what they make of fewer channels shows
        # once some are gone, half of the way first.
        goals = [
            math.sqrt(whole * goal) if limit.resource is not Resource.LATENCY and whole == after else goal
            for limit, whole, after, goal in zip(limited, before, taken, nearer(before, taken), strict=True)
        ]
        kept, proposal, nearest = before, None, 0.0
        for _ in range(_ATTEMPTS):
            pruned = planner.within(goals)
            if isinstance(pruned, TooMuch):
                return proposal or Decline(pruned.reason, pruned.refusals)
            if not pruned.holds:
                bound = f"the contract would not hold, as the metric may drop by {contract.max_drop:g}"
                return proposal or Decline(f"{bound}: {pruned.reason}", pruned.refusals, pruned.findings)
            rewrite = replace(
                self,
                removed=pruned.removed,
                weights=tuple((name, told(values)) for name, values in pruned.repair.weights.items()),
                offsets=tuple(pruned.repair.offsets.items()),
            )
            taken = later(rewrite.run(graph.copy(), context))
            if fit(limited, taken):
                reason = f"{pruned.reason}; {compared(taken, 'in the end')}"
                share = max(each / limit.most for limit, each in zip(limited, taken, strict=True))
                made = Proposal(rewrite, reason, pruned.refusals, pruned.findings)
                if share > _CLOSE:
                    return made
                if share > nearest:
                    nearest, proposal = share, made
                # Where later passes save more of what is left than was expected, channels went that can stay.
                kept, goals = goals, nearer(goals, taken)
            elif proposal is None:
                goals = nearer(goals, taken)
            else:
                goals = [(least + most) / 2 for least, most in zip(kept, goals, strict=True)]
        return proposal or Decline(f"{compared(taken)}: {pruned.reason}")

    def _asked(self, graph: Graph, context: Context) -> list[Limit]:
        """The share of a run's time that is to be left, of what it was before any channel went."""
        measure, contract = context.measure, context.contract
        if measure is None or contract is None or self.left is None:
            return []

        def seconds(of: Graph) -> float:
            return math.fsum(measure(of).values())

        whole = contract.once("seconds of a run with all channels", lambda: seconds(graph))
        return [Limit(Resource.LATENCY, self.left * whole, seconds)]

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
