"""Tuning: what is measured on this machine, once, and remembered."""

from lepton_compile.tuning.plans import PlanCache, plan_cache
from lepton_compile.tuning.prediction import predicted_seconds
from lepton_compile.tuning.table import TuningTable
from lepton_compile.tuning.tune import MODEL, how_to_tune, tuned
from lepton_compile.tuning.workbench import Workbench

__all__ = ["MODEL", "PlanCache", "TuningTable", "Workbench", "how_to_tune", "plan_cache", "predicted_seconds", "tuned"]
