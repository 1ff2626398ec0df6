"""Operators with kernel families of their own: convolution, pooling, products, concatenation, recurrent layers.

A module for each: how its family takes the nodes that it is made for, and, beside that, the operator's plain definition
in TE for types and shapes that the family does not take.
"""

from lepton_compile.lowering.anchors import (  # noqa: F401  (they register their operators)
    bfloat16,
    concatenation,
    convolution,
    dynamic_quantization,
    gathering,
    integer_product,
    normalization,
    pooling,
    products,
    quantization,
    recurrent,
    transposed_convolution,
)
from lepton_compile.lowering.anchors.registry import ANCHORS

__all__ = ["ANCHORS"]
