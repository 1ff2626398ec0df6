"""The table of operators in PyTorch, and what an operator function is told about its node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from torch import Tensor

from lepton_compile.errors import UnsupportedOperator, UnsupportedOperatorError
from lepton_compile.rewriting.patterns import constant, operand

Tensors: TypeAlias = Tensor | tuple[Tensor, ...]
OperatorFunction: TypeAlias = Callable[..., Tensors]
Decorated = TypeVar("Decorated", bound=OperatorFunction)

OPERATORS: dict[str, OperatorFunction] = {}


@dataclass(frozen=True)
class Operation:
    """A node as an operator function sees it: all but its inputs, which arrive as tensors.

    Attributes:
        node: The node; the shapes of its tensors are known.
        opset: Version of the default domain.
    """

    node: gs.Node
    opset: int

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default` where the node does not give it."""
        value = self.node.attrs.get(name)
        return default if value is None else value

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return tuple(int(size) for size in self.node.outputs[index].shape)

    def known(self, index: int) -> npt.NDArray[Any] | None:
        """The value of an input that is a constant; None where it is left out.

        Raises:
            UnsupportedOperatorError: It is computed.
        """
        tensor = operand(self.node, index)
        value = constant(tensor)
        if value is None and tensor is not None:
            self.refuse(f"its input {index} has to be a constant")
        return value

    def integers(self, index: int) -> tuple[int, ...]:
        """`known` as Python's integers; none where it is left out."""
        value = self.known(index)
        return () if value is None else tuple(int(each) for each in np.ravel(value))

    def require(self, attribute: str, *values: object) -> None:
        """Refuse any other value of an attribute.

        Args:
            attribute: Its name.
            values: What it may be, first what it is by default.
        """
        value = self.attribute(attribute, values[0])
        if value not in values:
            self.refuse(f"{attribute} is {value!r}")

    def refuse(self, reason: str) -> NoReturn:
        """Say why this node cannot be differentiated.

        Raises:
            UnsupportedOperatorError: Always.
        """
        raise UnsupportedOperatorError(
            [UnsupportedOperator(self.node.op, self.node.domain or "", self.opset, (self.node.name,), reason)]
        )


def operator(*op_types: str) -> Callable[[Decorated], Decorated]:
    """Register a function as these operators of ONNX's default domain.

    It is called with the `Operation` and a tensor for each input, None for one that is left out, and returns a tensor,
    or a tuple of as many as the node may have outputs. It is differentiable, and takes a batch through
    `torch.func.vmap`: it changes no tensor in place, and asks for the values of none.
    """

    def register(function: Decorated) -> Decorated:
        for op_type in op_types:
            if op_type in OPERATORS:
                raise ValueError(f"{op_type} is registered twice")
            OPERATORS[op_type] = function
        return function

    return register


def element_wise(**functions: Callable[..., Tensor]) -> None:
    """Register functions of tensors alone, by the operators that they are."""
    for op_type, function in functions.items():
        operator(op_type)(_of_tensors(function))


def _of_tensors(function: Callable[..., Tensor]) -> OperatorFunction:
    return lambda _, *tensors: function(*tensors)
