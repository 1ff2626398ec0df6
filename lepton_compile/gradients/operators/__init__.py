"""ONNX operators as functions of PyTorch's tensors, one each; importing this package fills the table of them."""

from lepton_compile.gradients.operators import (
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    product,
    recurrent,
    reduction,
    resize,
    shape,
)

__all__ = [
    "convolution",
    "elementwise",
    "movement",
    "normalization",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "resize",
    "shape",
]
