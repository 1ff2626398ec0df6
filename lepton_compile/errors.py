"""Every error of the compiler. Those that a device meets as well are defined in `lepton_compile.runtime.loader`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compile.runtime.loader import BuildError, LeptonError, ModelError, ShapeError, TargetError

__all__ = [
    "BudgetError",
    "BuildError",
    "CalibrationError",
    "LeptonError",
    "ModelError",
    "PassError",
    "ShapeError",
    "TargetError",
    "UnsupportedOperator",
    "UnsupportedOperatorError",
]


@dataclass(frozen=True)
class UnsupportedOperator:
    """An operator that the model uses and the compiler does not know.

    Attributes:
        op_type: The operator's name.
        domain: Its domain; "" is ONNX's own.
        version: The operator set of that domain that the model imports, 0 when it imports none.
        nodes: The names of the nodes that use it.
        reason: Why it is not supported, where there is more to say than that nobody knows it.
    """

    op_type: str
    domain: str
    version: int
    nodes: tuple[str, ...]
    reason: str = ""

    def __str__(self) -> str:
        operator = f"{self.domain or 'ai.onnx'}.{self.op_type} (version {self.version})"
        nodes = ", ".join(f"'{node}'" for node in self.nodes)
        return f"{operator} at {nodes}" + (f": {self.reason}" if self.reason else "")


class UnsupportedOperatorError(ModelError):
    """The model uses operators that the compiler does not know; all of them are listed."""

    operators: tuple[UnsupportedOperator, ...]

    def __init__(self, operators: Sequence[UnsupportedOperator]) -> None:
        listed = "; ".join(str(operator) for operator in operators)
        count = f"{len(operators)} operators that are" if len(operators) > 1 else "an operator that is"
        super().__init__(f"the model uses {count} not supported: {listed}", operators=tuple(operators))

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        return type(self), (self.operators,), self.__dict__  # pickle would call with the message


class BudgetError(LeptonError):
    """The model cannot be brought within the budget that was given."""


class CalibrationError(LeptonError):
    """The calibration data, the labels or the metric cannot be used."""


class PassError(BuildError):
    """A pass failed, or left a graph that is wrong.

    Attributes:
        pass_name: The name of the pass.
        problem: What went wrong, without the name of the pass.
    """

    pass_name: str

    def __init__(self, pass_name: str, message: str, **facts: object) -> None:
        super().__init__(f"pass '{pass_name}': {message}", pass_name=pass_name, **facts)
        self.problem = message

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        return type(self), (self.pass_name, self.problem), self.__dict__  # pickle would call with the message
