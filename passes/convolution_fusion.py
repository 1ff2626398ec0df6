"""Fuse convolutions with the element-wise operators behind them: activation, scale and shift, residual addition.

    relu(conv(x) + y)   ->   Convolution_n(x, y)

An Add of two convolutions goes to the one that is computed last; the other's value is in memory by then.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compile.rewriting.anchored_fusion import AnchoredFusion


@dataclass(frozen=True)
class ConvolutionFusion(AnchoredFusion):
    """Fuse convolutions with the element-wise operators behind them."""

    name = "convolution_fusion"
    kind = "Convolution"
    anchors = ("Conv", "ConvTranspose")
    after = ("attention", "gelu", "hard_swish", "layer_normalization", "silu", "softmax")
