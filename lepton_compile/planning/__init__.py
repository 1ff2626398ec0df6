"""Planning: which passes run, with which settings and why; the plan is the record and can be replayed."""

from lepton_compile.planning.adapt import adapt, finish
from lepton_compile.planning.plan import Plan, structure_of

__all__ = ["Plan", "adapt", "finish", "structure_of"]
