"""The table of operators, and what an operator function is told about its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from tvm import te

from lepton_compile.errors import UnsupportedOperator, UnsupportedOperatorError

Tensors: TypeAlias = te.Tensor | tuple[te.Tensor, ...]
OperatorFunction: TypeAlias = Callable[..., Tensors]
Decorated = TypeVar("Decorated", bound=OperatorFunction)


@dataclass(frozen=True)
class Operation:
    """A node as an operator function sees it: all but its inputs, which arrive as tensors.

    Attributes:
        op_type: The ONNX operator.
        name: The node's name, for error messages.
        attributes: Attribute values as Python or numpy values; strings are str.
        opset: Version of the default domain.
        outputs: How many outputs the node has.
        constants: One per input: its value where it is known at compile time, else None.
    """

    op_type: str
    name: str
    attributes: Mapping[str, Any]
    opset: int = 21
    outputs: int = 1
    constants: tuple[npt.NDArray[Any] | None, ...] = ()

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default` where the node does not give it."""
        value = self.attributes.get(name)
        return default if value is None else value

    def known(self, index: int) -> npt.NDArray[Any] | None:
        """The value of an input, or None where it is missing or known only at run time."""
        return self.constants[index] if index < len(self.constants) else None

    def constant(self, index: int, what: str) -> npt.NDArray[Any]:
        """The value of an input that has to be known at compile time.

        Raises:
            UnsupportedOperatorError: It is not; `what` says what it is ("the target shape").
        """
        value = self.known(index)
        if value is None:
            raise self.unsupported(f"{what} must be a constant")
        return value

    def integers(self, index: int, what: str) -> tuple[int, ...]:
        """`constant` as a tuple of Python integers."""
        return tuple(int(value) for value in np.ravel(self.constant(index, what)))

    def unsupported(self, reason: str) -> UnsupportedOperatorError:
        """The error that says why this node cannot be lowered."""
        return UnsupportedOperatorError(
            [UnsupportedOperator(self.op_type, "", self.opset, (self.name,), reason)],
        )


OPERATORS: dict[str, OperatorFunction] = {}


def operator(*op_types: str) -> Callable[[Decorated], Decorated]:
    """Register a function as the lowering of these operators of ONNX's default domain.

    It is called with the `Operation` and one `te.Tensor` per input, None for an optional one that is missing, and
    returns a tensor, or a tuple of as many as the node has outputs.
    """

    def register(function: Decorated) -> Decorated:
        for op_type in op_types:
            if op_type in OPERATORS:
                raise ValueError(f"{op_type} is registered twice")
            OPERATORS[op_type] = function
        return function

    return register
