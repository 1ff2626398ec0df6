"""lepton_compile: an ONNX model and a description of a device in, a native library out.

    compiled = lepton_compile.compile("detector.onnx", target="raspberry-pi-4", shapes={"images": [1, 3, 320, 320]})
    compiled.save("detector.lepton")
    lepton_compile.load("detector.lepton").run({"images": image})

The names below are imported when they are first used, so that `lepton_compile.load` needs numpy alone on a device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_compile.api import compile
    from lepton_compile.errors import BudgetError, PassError, UnsupportedOperator, UnsupportedOperatorError
    from lepton_compile.evaluation.bisect import bisect
    from lepton_compile.measuring.bench import Benchmark, bench
    from lepton_compile.model import Graph, import_model
    from lepton_compile.planning import Plan
    from lepton_compile.rewriting import Context, Decline, Pass, Proposal, Stage, list_passes
    from lepton_compile.runtime.loader import (
        BuildError,
        CompiledModel,
        LeptonError,
        ModelError,
        ShapeError,
        TargetError,
        load,
    )
    from lepton_compile.target import Budget, Resources, Target, list_targets, resolve_target, sense_host

__all__ = [
    "Benchmark",
    "Budget",
    "BudgetError",
    "BuildError",
    "CompiledModel",
    "Context",
    "Decline",
    "Graph",
    "LeptonError",
    "ModelError",
    "Pass",
    "PassError",
    "Plan",
    "Proposal",
    "Resources",
    "ShapeError",
    "Stage",
    "Target",
    "TargetError",
    "UnsupportedOperator",
    "UnsupportedOperatorError",
    "bench",
    "bisect",
    "compile",
    "import_model",
    "list_passes",
    "list_targets",
    "load",
    "resolve_target",
    "sense_host",
]

_MODULES = {
    "lepton_compile.api": ("compile",),
    "lepton_compile.errors": ("BudgetError", "PassError", "UnsupportedOperator", "UnsupportedOperatorError"),
    "lepton_compile.evaluation.bisect": ("bisect",),
    "lepton_compile.measuring.bench": ("Benchmark", "bench"),
    "lepton_compile.model": ("Graph", "import_model"),
    "lepton_compile.planning": ("Plan",),
    "lepton_compile.rewriting": ("Context", "Decline", "Pass", "Proposal", "Stage", "list_passes"),
    "lepton_compile.runtime.loader": (
        "BuildError",
        "CompiledModel",
        "LeptonError",
        "ModelError",
        "ShapeError",
        "TargetError",
        "load",
    ),
    "lepton_compile.target": ("Budget", "Resources", "Target", "list_targets", "resolve_target", "sense_host"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
