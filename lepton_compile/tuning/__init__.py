"""Tuning: which algorithm is fastest on this machine, measured once and remembered."""

from lepton_compile.tuning.stopwatch import Stopwatch
from lepton_compile.tuning.table import TuningTable
from lepton_compile.tuning.tune import how_to_tune, tuned

__all__ = ["Stopwatch", "TuningTable", "how_to_tune", "tuned"]
