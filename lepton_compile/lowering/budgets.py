"""What a program and its library cost against a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_compile.lowering.program import Program

if TYPE_CHECKING:
    from lepton_compile.target import Budget


def oversize(nbytes: int, budget: Budget) -> str | None:
    """By what a library's file is over the budget for its size, in one line; None if it is not."""
    if budget.size_bytes is None or nbytes <= budget.size_bytes:
        return None
    return f"the library takes {nbytes} bytes, and the budget for its size is {budget.size_bytes}"


def excess(program: Program, budget: Budget, available: int | None = None) -> str | None:
    """By what a program is over a budget, or over the memory that a target has, in one line; None if it is not.

    This much can be said before there is code: a library is its weights and its code.
    """
    weights = sum(values.nbytes for values in program.weights.values())
    if budget.size_bytes is not None and weights > budget.size_bytes:
        return f"the weights alone take {weights} bytes, and the budget for the library's size is {budget.size_bytes}"
    if budget.memory_bytes is not None and program.peak_bytes > budget.memory_bytes:
        return (
            f"a run takes {program.peak_bytes} bytes of memory, weights included, and the budget is "
            f"{budget.memory_bytes}"
        )
    if available is not None and program.process_bytes > available:
        return (
            f"a run takes {program.process_bytes} bytes of memory, {weights} of them for weights and "
            f"{program.memory.arena_bytes} for intermediate results, and the target has {available}"
        )
    return None
