"""Graph to Program: operators become kernels, tensors become buffers."""

from lepton_compile.lowering.budgets import excess, oversize
from lepton_compile.lowering.lower import lower
from lepton_compile.lowering.program import Program

__all__ = ["Program", "excess", "lower", "oversize"]
