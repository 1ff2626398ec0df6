"""What a pass is: a frozen dataclass that proposes itself for a graph, with a reason, and rewrites it when picked.

The fields of a pass are its settings. They are JSON values (numbers, text, booleans, None, and tuples of these), so
that a pass can be printed and read back, `name{field=value}`, and a plan can be saved and replayed.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from lepton_compile.model import Graph

if TYPE_CHECKING:
    from lepton_compile.evaluation.contract import Contract
    from lepton_compile.target import Target


class Stage(enum.Enum):
    """When a pass runs. Stages follow each other in this order, each to its fixpoint.

    Pruning and quantization need to see single operators, so fusion comes last.
    """

    CANONICALISE = "canonicalise"
    PRUNE = "prune"
    QUANTIZE = "quantize"
    FUSE = "fuse"


@dataclass(frozen=True)
class Context:
    """What a pass may use beside the graph and the target.

    Attributes:
        contract: Calibration data, metric and maximum drop, which approximate passes run under; None: exact passes
            only.
        measure: Seconds that the steps of a run of a graph take on the target, measured or predicted; each by the names
            of the nodes that it computes, a line each.
        size: Bytes of the library of a graph.
        memory: Bytes that a run of a graph takes at its peak, weights included.
        outlook: What the passes of the stages after this one make of a graph.
    """

    contract: Contract | None = None
    measure: Callable[[Graph], Mapping[str, float]] | None = None
    size: Callable[[Graph], int] | None = None
    memory: Callable[[Graph], int] | None = None
    outlook: Callable[[Graph, Stage], Graph] | None = None


@dataclass(frozen=True)
class Proposal:
    """A pass finds itself worth running on the graph as it is now.

    Attributes:
        rewrite: The pass to run, with the settings that it proposes.
        reason: Why, in one line.
        refusals: The places that look like its pattern but that it leaves alone, and why
            ("conv_12: weight is shared with conv_40").
        findings: What it rests on, for the report, as JSON values; never a sample of the user's data.
    """

    rewrite: Pass
    reason: str
    refusals: tuple[str, ...] = ()
    findings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Decline:
    """A pass has nothing to do on the graph as it is now.

    Attributes:
        reason: Why, in one line.
        refusals: The places that look like its pattern but that it leaves alone, and why.
        findings: What the answer rests on, for the report, as JSON values.
    """

    reason: str
    refusals: tuple[str, ...] = ()
    findings: Mapping[str, object] = field(default_factory=dict)


class Pass(ABC):
    """A rewrite of the graph. Subclasses are frozen dataclasses with a default for every field.

    A vendor's pass is one more class, registered under the entry-point group `lepton_compile.passes` with its `name`:

        [project.entry-points."lepton_compile.passes"]
        my_pass = "my_package.my_module:MyPass"

    Attributes:
        name: Unique, lower case with underscores; also the name of the entry point.
        stage: When it runs.
        exact: Whether the value is the same but for the order of float additions, NaN and infinities kept. One that
            is not exact runs under a contract only.
        after: Names of passes of the same stage that go first, where they take part.
        choices: Values that a search may try of some fields; of each, the one with which least is given up comes first.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    exact: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[Mapping[str, Sequence[object]]] = {}

    @abstractmethod
    def propose(self, graph: Graph, target: Target, context: Context) -> Proposal | Decline:
        """Say whether the pass is worth running on `graph`, with which settings and why; `graph` stays as it is."""

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """Rewrite `graph`, which is the pass's own copy: it may be edited in place and returned.

        The result is valid ONNX with the same inputs and outputs (names, shapes and types). Shapes of new tensors may
        be left out: they are inferred afterwards.
        """

    def settings(self) -> dict[str, object]:
        """The fields of this pass by name, as JSON values."""
        fields: tuple[dataclasses.Field[object], ...] = dataclasses.fields(self)  # type: ignore[arg-type]
        return {each.name: getattr(self, each.name) for each in fields}

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.settings().items())
        return f"{self.name}{{{settings}}}" if settings else self.name
