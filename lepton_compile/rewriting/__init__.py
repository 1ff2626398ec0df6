"""Rewriting: what a pass is, how passes are found, and how they are run, checked and blamed."""

from lepton_compile.rewriting.manager import Declined, Step, replay_steps, run_passes
from lepton_compile.rewriting.passes import Context, Decline, Pass, Proposal, Stage
from lepton_compile.rewriting.registry import RegisteredPass, create_pass, list_passes

__all__ = [
    "Context",
    "Decline",
    "Declined",
    "Pass",
    "Proposal",
    "RegisteredPass",
    "Stage",
    "Step",
    "create_pass",
    "list_passes",
    "replay_steps",
    "run_passes",
]
