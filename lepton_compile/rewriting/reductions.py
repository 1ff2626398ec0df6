"""What a reduction reduces."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lepton_compile.rewriting.patterns import constant, operand, static_shape


def reduced_axes(node: gs.Node) -> tuple[int, ...] | None:
    """The axes that a reduction takes away, ascending, where they stay as axes of one element; else None.

    Args:
        node: A Reduce operator with its axes as an input (operator set 18 and up) or attribute.
    """
    shape = static_shape(node.inputs[0])
    if shape is None or not node.attrs.get("keepdims", 1):
        return None
    given = operand(node, 1)
    values = constant(given)
    if given is not None and values is None:
        return None
    axes = [int(axis) for axis in (values.reshape(-1) if values is not None else node.attrs.get("axes", ()))]
    if not axes:
        return () if node.attrs.get("noop_with_empty_axes", 0) else tuple(range(len(shape)))
    return tuple(sorted(axis % len(shape) for axis in axes))


def is_trailing(axes: tuple[int, ...], rank: int) -> bool:
    """Whether ascending `axes` are the last ones of `rank`, at least one."""
    return bool(axes) and axes == tuple(range(rank - len(axes), rank))
