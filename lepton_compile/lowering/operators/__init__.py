"""ONNX operators as tensor expressions, one function each; importing this package fills `OPERATORS`."""

from lepton_compile.lowering.operators import (
    activation,
    casting,
    einsum,
    elementwise,
    gathering,
    grid_sample,
    logic,
    movement,
    normalization,
    padding,
    quantization,
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
    "einsum",
    "elementwise",
    "gathering",
    "grid_sample",
    "logic",
    "movement",
    "normalization",
    "operator",
    "padding",
    "quantization",
    "reduction",
    "resize",
    "shape",
    "softmax",
    "transcendental",
]
