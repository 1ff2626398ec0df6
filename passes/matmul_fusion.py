"""Fuse matrix products with the element-wise operators behind them: bias, activation, residual addition.

gelu(x W + b)   ->   MatMul_n(x, W, b)
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compile.rewriting.anchored_fusion import AnchoredFusion


@dataclass(frozen=True)
class MatMulFusion(AnchoredFusion):
    """Fuse matrix products with the element-wise operators behind them."""

    name = "matmul_fusion"
    kind = "MatMul"
    anchors = ("MatMul", "Gemm", "MatMulInteger")
    after = ("convolution_fusion",)
