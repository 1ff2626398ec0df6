"""Targets: the machines that models are compiled for, described in files or sensed."""

from lepton_compile.target.catalogue import list_targets, resolve_target
from lepton_compile.target.host import sense_host
from lepton_compile.target.target import Budget, Policy, Resources, Target, with_budget, with_latency

__all__ = [
    "Budget",
    "Policy",
    "Resources",
    "Target",
    "list_targets",
    "resolve_target",
    "sense_host",
    "with_budget",
    "with_latency",
]
