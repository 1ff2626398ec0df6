"""Tuning: which algorithm is fastest on this machine, measured once and remembered."""

from lepton_compile.tuning.stopwatch import Stopwatch
from lepton_compile.tuning.table import TuningTable
from lepton_compile.tuning.tune import tuned

__all__ = ["Stopwatch", "TuningTable", "tuned"]
