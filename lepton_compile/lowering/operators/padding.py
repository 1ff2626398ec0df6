"""Pad, in its four modes."""

from __future__ import annotations

from tvm import te, tirx

from lepton_compile.lowering.operators.pointwise import dtype_of, load, normalise_axis, shape_of
from lepton_compile.lowering.operators.registry import Operation, operator


def _edge(index: tirx.Expr, size: int, before: int, after: int) -> tirx.Expr:
    low = tirx.max(index, 0) if before > 0 else index
    return tirx.min(low, size - 1) if after > 0 else low


def _reflect(index: tirx.Expr, size: int, before: int, after: int) -> tirx.Expr:
    """Mirrored at the first and last element, which are not repeated."""
    if size == 1:
        return tirx.const(0, "int32")
    if before < size and after < size:
        # One mirror at each end: |i| at the front, and the same seen from the back.
        low = tirx.abs(index) if before > 0 else index
        return (size - 1) - tirx.abs((size - 1) - low) if after > 0 else low
    period = 2 * (size - 1)
    position = tirx.floormod(index, period)
    return tirx.min(position, period - position)


def _wrap(index: tirx.Expr, size: int, before: int, after: int) -> tirx.Expr:
    return tirx.floormod(index, size) if before > 0 or after > 0 else index


_MODES = {"edge": _edge, "reflect": _reflect, "wrap": _wrap}


@operator("Pad")
def pad(
    node: Operation, x: te.Tensor, _: te.Tensor, value: te.Tensor | None = None, axes: te.Tensor | None = None
) -> te.Tensor:
    """Elements before and after along every axis, or cut off where a count is negative."""
    shape, dtype = shape_of(x), dtype_of(x)
    rank, counts = len(shape), node.integers(1, "the list of pads")
    named = [normalise_axis(a, rank) for a in node.integers(3, "the list of axes")] if axes is not None else range(rank)
    half = len(counts) // 2
    before = [0] * rank
    after = [0] * rank
    for axis, front, back in zip(named, counts[:half], counts[half:], strict=True):
        before[axis], after[axis] = front, back
    result = [front + size + back for front, size, back in zip(before, shape, after, strict=True)]
    mode = node.attribute("mode", "constant")

    def inside(*i: tirx.Expr) -> tirx.Expr:
        at = [index - front for index, front in zip(i, before, strict=True)]
        bounds = []
        for index, size, front, back in zip(at, shape, before, after, strict=True):
            bounds += [index >= 0] if front > 0 else []
            bounds += [index < size] if back > 0 else []
        if not bounds:
            return load(x, *at)
        fill = tirx.const(0, dtype) if value is None else load(value, *[0] * len(value.shape))
        return tirx.if_then_else(tirx.all(*bounds), load(x, *at), fill)

    def mapped(*i: tirx.Expr) -> tirx.Expr:
        """What is left after cutting is padded: a mirror stands at the cut, not at the end of the input."""
        at = []
        for axis, index in enumerate(i):
            cut = max(-before[axis], 0)
            size = shape[axis] - cut - max(-after[axis], 0)
            place = _MODES[mode](index - max(before[axis], 0), size, before[axis], after[axis])
            at.append(place + cut if cut else place)
        return load(x, *at)

    return te.compute(result, inside if mode == "constant" else mapped, name="pad")
