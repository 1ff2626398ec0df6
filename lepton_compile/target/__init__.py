"""Targets: the machines that models are compiled for, described in files or sensed, and a score of their resources."""

from lepton_compile.target.catalogue import list_targets, resolve_target
from lepton_compile.target.host import measure_host, sense_host
from lepton_compile.target.score import Rating, Score, score
from lepton_compile.target.target import (
    Accelerator,
    Budget,
    Policy,
    Resources,
    Target,
    with_budget,
    with_latency,
)

__all__ = [
    "Accelerator",
    "Budget",
    "Policy",
    "Rating",
    "Resources",
    "Score",
    "Target",
    "list_targets",
    "measure_host",
    "resolve_target",
    "score",
    "sense_host",
    "with_budget",
    "with_latency",
]
