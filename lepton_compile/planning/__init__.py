"""Planning: which passes run, with which settings and why; the plan is the record and can be replayed."""

from lepton_compile.planning.adapt import adapt
from lepton_compile.planning.plan import Plan

__all__ = ["Plan", "adapt"]
