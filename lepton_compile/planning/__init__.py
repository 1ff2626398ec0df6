"""Planning: which passes run, with which settings and why; the plan is the record and can be replayed."""

from lepton_compile.planning.adapt import adapt, finish
from lepton_compile.planning.explore import explore
from lepton_compile.planning.plan import Plan

__all__ = ["Plan", "adapt", "explore", "finish"]
