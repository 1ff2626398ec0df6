"""What operators need of values that are known only at run time, so that a bad one is an error and not a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels.kernel import shape_of
from lepton_compile.lowering.operators import Operation

# From the operation and its inputs to the tensor that has to be true everywhere, and what is wrong where it is not.
Found: TypeAlias = tuple[te.Tensor, str] | None
Requirement: TypeAlias = Callable[..., Found]

_IN_RANGE = "an index is out of range"


def requirement_of(operation: Operation, *inputs: te.Tensor | None) -> Found:
    """The condition that a node puts on its inputs, as one bool, and the message if it does not hold; None for none."""
    found = REQUIREMENTS[operation.op_type](operation, *inputs) if operation.op_type in REQUIREMENTS else None
    if found is None:
        return None
    condition, problem = found
    return everywhere(condition), f"{operation.op_type} '{operation.name}': {problem}"


def everywhere(condition: te.Tensor) -> te.Tensor:
    """Whether a tensor of bool is true in every element."""
    shape = shape_of(condition)
    axes = [te.reduce_axis((0, size)) for size in shape]
    if not axes:
        return condition
    # Bytes hold truth values that vectors can take the minimum of.
    lowest = te.compute((), lambda: te.min(tirx.Cast("int32", condition(*axes)), axis=axes), name="lowest")
    return te.compute((), lambda: lowest() != 0, name="everywhere")


def _indices(operation: Operation, position: int, indices: te.Tensor, size: int) -> Found:
    known = operation.known(position)
    if known is not None:
        if np.any(known < -size) or np.any(known >= size):
            raise operation.unsupported(f"an index is out of range for an axis of {size}")
        return None
    return te.compute(indices.shape, lambda *i: tirx.all(indices(*i) >= -size, indices(*i) < size)), _IN_RANGE


def _along_axis(
    operation: Operation, data: te.Tensor, indices: te.Tensor, *_: te.Tensor
) -> tuple[te.Tensor, str] | None:
    return _indices(operation, 1, indices, shape_of(data)[int(operation.attribute("axis", 0))])


def _tuples(operation: Operation, data: te.Tensor, indices: te.Tensor, *_: te.Tensor) -> Found:
    """Indices whose last axis counts axes of the data, from `batch_dims` on."""
    first = int(operation.attribute("batch_dims", 0))
    sizes = shape_of(data)[first : first + shape_of(indices)[-1]]

    def inside(*i: tirx.Expr) -> tirx.Expr:
        *_, component = i
        limit = tirx.const(sizes[-1], "int64")
        for axis, size in enumerate(sizes[:-1]):
            limit = tirx.Select(component == axis, tirx.const(size, "int64"), limit)
        index = tirx.Cast("int64", indices(*i))
        return tirx.all(index >= -limit, index < limit)

    return te.compute(indices.shape, inside), _IN_RANGE


def _divisor(operation: Operation, dividend: te.Tensor, divisor: te.Tensor) -> Found:
    if "float" in str(divisor.dtype):
        return None
    known = operation.known(1)
    if known is not None and np.all(known != 0):
        return None
    return te.compute(divisor.shape, lambda *i: divisor(*i) != 0), "division by zero"


def _lengths(operation: Operation, position: int, x: te.Tensor, axis: int, lengths: te.Tensor | None) -> Found:
    """Lengths of sequences whose steps lie along one axis."""
    steps, known = shape_of(x)[axis], operation.known(position)
    if known is not None and np.any((known < 0) | (known > steps)):
        raise operation.unsupported(f"a sequence is longer than the {steps} steps that there are, or shorter than none")
    if lengths is None or known is not None:
        return None
    fits = te.compute(lengths.shape, lambda *i: tirx.all(lengths(*i) >= 0, lengths(*i) <= steps))
    return fits, f"the length of a sequence is not from 0 to {steps}"


def _reversed(operation: Operation, x: te.Tensor, lengths: te.Tensor) -> Found:
    return _lengths(operation, 1, x, int(operation.attribute("time_axis", 0)), lengths)


def _recurrent(operation: Operation, x: te.Tensor, *others: te.Tensor | None) -> Found:
    lengths = others[3] if len(others) > 3 else None
    return _lengths(operation, 4, x, int(operation.attribute("layout", 0)), lengths)


REQUIREMENTS: dict[str, Requirement] = {
    "Gather": _along_axis,
    "GatherElements": _along_axis,
    "ScatterElements": _along_axis,
    "GatherND": _tuples,
    "ScatterND": _tuples,
    "Div": _divisor,
    "Mod": _divisor,
    "ReverseSequence": _reversed,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
}
