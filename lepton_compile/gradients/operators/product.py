"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, element_wise, operator

element_wise(MatMul=torch.matmul)


@operator("Gemm")
def gemm(node: Operation, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Alpha A B + beta C, either of A and B transposed."""
    a = a.T if node.attribute("transA", 0) else a
    b = b.T if node.attribute("transB", 0) else b
    made = float(node.attribute("alpha", 1.0)) * (a @ b)
    return made if c is None else made + float(node.attribute("beta", 1.0)) * c


@operator("Einsum")
def einsum(node: Operation, *tensors: Tensor) -> Tensor:
    """Sums of products, in Einstein's notation."""
    return torch.einsum(str(node.attribute("equation")), *tensors)
