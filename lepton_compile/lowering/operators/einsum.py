"""Einsum: a sum over products, written in index letters."""

from __future__ import annotations

from functools import reduce

from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import convert, dtype_of, load, shape_of, widen
from lepton_compile.lowering.operators.registry import Operation, operator

# Stand for the axes of an ellipsis, counted from the last one; no letter of an equation is a digit.
_ELLIPSIS_AXES = "0123456789"


def terms_of(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of every operand and of the result, ellipses written out and the implied result made explicit.

    Args:
        equation: As in the operator's attribute.
        ranks: The rank of every operand.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    widest = 0
    expanded = []
    for term, rank in zip(operands, ranks, strict=True):
        hidden = rank - len(term.replace("...", ""))
        widest = max(widest, hidden) if "..." in term else widest
        expanded.append(term.replace("...", _ELLIPSIS_AXES[:hidden][::-1]))
    ellipsis = _ELLIPSIS_AXES[:widest][::-1]
    if arrow:
        return expanded, right.replace("...", ellipsis)
    letters = "".join(operands).replace("...", "")
    once = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return expanded, ellipsis + once


@operator("Einsum")
def einsum(node: Operation, *tensors: te.Tensor) -> te.Tensor:
    """The sum over all letters that the result lacks of the product of the operands."""
    terms, result = terms_of(node.attribute("equation"), [len(x.shape) for x in tensors])
    sizes: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        for letter, size in zip(term, shape_of(x), strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    wide = [widen(x) for x in tensors]
    summed = [letter for letter in sizes if letter not in result]
    axes = {letter: te.reduce_axis((0, sizes[letter]), name=f"k_{letter}") for letter in summed}

    def element(*i: tirx.Expr) -> tirx.Expr:
        at = {**dict(zip(result, i, strict=True)), **{letter: axis.var for letter, axis in axes.items()}}
        factors = [
            load(x, *(0 if size == 1 else at[letter] for letter, size in zip(term, shape_of(x), strict=True)))
            for term, x in zip(terms, wide, strict=True)
        ]
        product = reduce(lambda p, q: p * q, factors)
        return te.sum(product, axis=list(axes.values())) if axes else product

    return convert(te.compute([sizes[letter] for letter in result], element, name="einsum"), dtype_of(tensors[0]))
