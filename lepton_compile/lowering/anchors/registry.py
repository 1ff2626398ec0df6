"""The table of operators with kernel families of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tvm import te

Lowered: TypeAlias = te.Tensor | tuple[te.Tensor, ...] | None
AnchorFunction = Callable[..., Lowered]

ANCHORS: dict[str, AnchorFunction] = {}


def anchor(op_type: str) -> Callable[[AnchorFunction], AnchorFunction]:
    """Register a function as the lowering of an operator of ONNX's default domain.

    It is given the scope, the operation and its input tensors, and returns its output tensors as operator functions do;
    what it returns may be an anchor that is still open. None says that the family does not take this node, and the
    operator's plain TE definition, if there is one, is used.
    """

    def register(function: AnchorFunction) -> AnchorFunction:
        ANCHORS[op_type] = function
        return function

    return register
