"""ONNX operators as tensor expressions, one function each; importing this package fills `OPERATORS`."""

from lepton_compile.lowering.operators import (
    activation,
    casting,
    elementwise,
    gathering,
    logic,
    movement,
    normalization,
    padding,
    reduction,
    resize,
    shape,
    softmax,
    transcendental,
)
from lepton_compile.lowering.operators.registry import OPERATORS, Operation, operator

__all__ = [
    "OPERATORS",
    "Operation",
    "activation",
    "casting",
    "elementwise",
    "gathering",
    "logic",
    "movement",
    "normalization",
    "operator",
    "padding",
    "reduction",
    "resize",
    "shape",
    "softmax",
    "transcendental",
]
