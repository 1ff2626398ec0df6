"""Fuse convolutions with the element-wise operators behind them: activation, scale and shift, residual addition.

    relu(conv(x) + y)   ->   Convolution_n(x, y)

A Gather of channels in front is fused as well: the kernel reads them in that order.

An Add of two convolutions goes to the one that is computed last; the other's value is in memory by then.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lepton_compile.rewriting.anchored_fusion import AnchoredFusion
from lepton_compile.rewriting.channels import channel_order, is_depthwise
from lepton_compile.rewriting.patterns import Uses, is_operator, producer


@dataclass(frozen=True)
class ConvolutionFusion(AnchoredFusion):
    """Fuse convolutions with the element-wise operators behind them."""

    name = "convolution_fusion"
    kind = "Convolution"
    anchors = ("Conv", "ConvTranspose")
    after = ("attention", "dequantization", "gelu", "hard_swish", "layer_normalization", "silu", "softmax")

    def before(self, anchor: gs.Node, uses: Uses) -> list[gs.Node]:
        """A Gather of the channels of a convolution that reads each of them for several outputs."""
        gather = producer(anchor.inputs[0])
        if gather is None or channel_order(gather) is None or not is_operator(anchor, "Conv") or is_depthwise(anchor):
            return []
        return [] if uses.other_use(anchor.inputs[0], anchor) else [gather]
