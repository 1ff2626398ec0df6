"""Lowering of one region: TE tensors for its values, and the decision which of them become kernels.

Nodes are evaluated in order. An element-wise operator adds to an expression and costs nothing yet. An anchor
(convolution, matrix product, pooling...) becomes a placeholder whose kernel is still open. A kernel is made when a
tensor has to be in memory: because it is an output of the region, or the operand of an anchor. If its expression is
element-wise over one open anchor, that anchor's kernel computes it on the way to memory (its epilogue); otherwise the
anchor is stored first. Reductions that give one value for each row of the tensor are computed by its kernel, row by
row; others are stored first as well, and an element-wise kernel does the rest. So any region is computed rightly,
whatever fusion put into it, and well if fusion knew what kernels can take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import sym, te, tirx

from lepton_compile.kernels.elementwise import elementwise
from lepton_compile.kernels.expressions import Reduction, evaluate, identity, is_inlined, is_reduction, leaves, operands
from lepton_compile.kernels.kernel import Epilogue, Source, shape_of
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.row_plan import RowPlan, plan_rows, row_leaves
from lepton_compile.kernels.rows import rows
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.program import Buffer


@dataclass(frozen=True)
class Anchor:
    """A computation with a kernel family of its own, not yet emitted.

    Attributes:
        layout: The layout in which it stores its result.
        emit: Adds its kernels, given the epilogue, the buffers of the epilogue's sources, and the result's buffer.
        takes_epilogue: Whether anything but its plain value can be stored.
    """

    layout: Layout
    emit: Callable[[Epilogue, Sequence[Buffer], Buffer], None]
    takes_epilogue: bool = True


@dataclass(frozen=True)
class Quantized:
    """What a tensor stands for: (values - zero) * scale.

    Attributes:
        values: Integers.
        scale: One number, or one for each place on an axis, or, of the integers' rank, for each block of places on it;
            float32.
        zero: The same of the integers' type.
        axis: That axis.
        block: Places in a block; 0 where there are none.
        computed: What they stand for, as an expression over them.
    """

    values: te.Tensor
    scale: Array
    zero: Array
    axis: int
    block: int
    computed: te.Tensor

    @property
    def dtype(self) -> str:
        """The type of the integers."""
        return str(self.values.dtype)

    @property
    def of_bytes(self) -> bool:
        """Whether they are bytes of one scale and zero point."""
        return self.scale.size == self.zero.size == 1 and self.dtype in ("uint8", "int8")


class Scope:
    """The values of a region: which tensors are in memory, known, or still open.

    Attributes:
        builder: The program being built.
        nodes: Names of the ONNX nodes that the region computes.
    """

    def __init__(self, builder: Builder, nodes: Sequence[str]) -> None:
        self.builder = builder
        self.nodes = tuple(nodes)
        self._buffers: dict[te.Operation, Buffer] = {}
        self._constants: dict[te.Operation, Array] = {}
        self._literals: dict[te.Operation, Array] = {}
        self._anchors: dict[te.Operation, Anchor] = {}
        self._copies: dict[te.Operation, te.Tensor] = {}
        self._quantized: dict[te.Operation, Quantized] = {}
        self._widened: dict[te.Operation, te.Tensor] = {}
        self._notes: dict[te.Operation, object] = {}

    def tensor_of(self, buffer: Buffer) -> te.Tensor:
        """A tensor whose value is in memory."""
        tensor = te.placeholder([int(size) for size in buffer.shape], buffer.dtype, name=buffer.name)
        self._buffers[tensor.op] = buffer
        return tensor

    def constant(self, values: Array) -> te.Tensor:
        """A tensor whose value is known: a literal if it is one number, else a weight."""
        dtype = values.dtype.name
        if values.size == 1 and dtype in _LITERALS:
            literal = tirx.const(values.reshape(()).item(), dtype)
            single = te.compute(values.shape, lambda *_: literal, name="constant")
            self._literals[single.op] = values
            return single
        tensor = te.placeholder(values.shape, dtype, name="constant")
        self._constants[tensor.op] = values
        return tensor

    def known(self, tensor: te.Tensor) -> Array | None:
        """The value of a tensor made by `constant` that is not a literal."""
        return self._constants.get(tensor.op)

    def literal_or_known(self, tensor: te.Tensor) -> Array | None:
        """The value of a tensor made by `constant`, a literal's too."""
        return self._literals.get(tensor.op, self._constants.get(tensor.op))

    def value(self, tensor: te.Tensor) -> Array:
        """The same, of a tensor that is known to be one."""
        values = self.literal_or_known(tensor)
        assert values is not None
        return values

    def dequantize(self, tensor: te.Tensor, quantized: Quantized) -> te.Tensor:
        """Note what a tensor was dequantized from, for kernels that compute with the integers."""
        self._quantized[tensor.op] = quantized
        return tensor

    def quantized(self, tensor: te.Tensor) -> Quantized | None:
        """What a tensor was dequantized from, if it was."""
        return self._quantized.get(tensor.op)

    def widen(self, tensor: te.Tensor, narrow: te.Tensor) -> te.Tensor:
        """Note which bfloat16 tensor a float32 one was widened from, for kernels that compute with that."""
        self._widened[tensor.op] = narrow
        return tensor

    def narrow(self, tensor: te.Tensor) -> te.Tensor | None:
        """The bfloat16 tensor that a tensor was widened from, if it was."""
        return self._widened.get(tensor.op)

    def note(self, tensor: te.Tensor, what: object) -> te.Tensor:
        """Note what else is known of a tensor, for the lowering of what reads it."""
        self._notes[tensor.op] = what
        return tensor

    def note_of(self, tensor: te.Tensor) -> object:
        """What was noted of a tensor; None if nothing was."""
        return self._notes.get(tensor.op)

    def layout(self, tensor: te.Tensor) -> Layout:
        """The layout in which a tensor is, or will be if nothing else asks for it."""
        if tensor.op in self._buffers:
            return self._buffers[tensor.op].layout
        return PLAIN if tensor.op in self._constants else self._natural_layout(tensor)

    def is_plain(self, tensor: te.Tensor) -> bool:
        """Whether a tensor is, or will be, in plain layout."""
        return not self.layout(tensor).block

    def operands(self, tensor: te.Tensor, layout: Layout) -> tuple[list[Source], list[Buffer]]:
        """What a kernel reads that computes `copy_of(tensor)` in a layout."""
        return self._sources(self.copy_of(tensor), layout)

    def copy_of(self, tensor: te.Tensor) -> te.Tensor:
        """A computation of a tensor's value: itself if it can be inlined, else a copy of what is in memory."""
        if (
            is_inlined(tensor)
            and tensor.op not in self._buffers
            and not any(leaf.op in self._anchors and leaf.op not in self._buffers for leaf in leaves(tensor))
        ):
            return tensor
        if tensor.op not in self._copies:
            self.to_memory(tensor) if tensor.op not in self._constants else None
            self._copies[tensor.op] = te.compute(tensor.shape, lambda *i: tensor(*i), name="copy")
        return self._copies[tensor.op]

    def origin(self, tensor: te.Tensor) -> te.Tensor:
        """The tensor to read instead of this one: one that it only has the elements of, in rows that are as contiguous.

        So a product reads attention heads where they are, and nothing is copied to bring them together. Of any other
        tensor, itself.
        """
        if not is_inlined(tensor) or tensor.op in self._buffers:
            return tensor
        found: list[tuple[te.Tensor, list[tirx.Expr], tirx.Expr]] = []

        def record(leaf: te.Tensor, indices: list[tirx.Expr]) -> tirx.Expr:
            found.append((leaf, list(indices), tirx.Var("value", str(leaf.dtype))))
            return found[-1][2]

        variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(tensor.shape))]
        value = evaluate(tensor, variables, record)
        if len(found) != 1 or identity(found[0][2]) != identity(value):
            return tensor
        leaf, indices, _ = found[0]
        contiguous = identity(indices[-1]) == identity(variables[-1]) and shape_of(leaf)[-1] == shape_of(tensor)[-1]
        return leaf if contiguous and not is_reduction(leaf) else tensor

    def open(self, shape: Sequence[int], dtype: str, anchor: Anchor) -> te.Tensor:
        """A tensor that an anchor computes, once it is known what becomes of it."""
        tensor = te.placeholder(list(shape), dtype, name="anchor")
        self._anchors[tensor.op] = anchor
        return tensor

    def stored(self, tensor: te.Tensor) -> Buffer | None:
        """Where a tensor is, if it is in memory."""
        return self._buffers.get(tensor.op)

    def to_memory(self, tensor: te.Tensor, *, name: str | None = None, into: Buffer | None = None) -> Buffer:
        """Make sure that a tensor is in memory.

        Args:
            tensor: The tensor.
            name: The ONNX value that it is.
            into: A buffer to compute it into; the tensor may then lie elsewhere as well.

        Returns:
            Where it is; `into` if given.
        """
        if tensor.op in self._buffers:
            buffer = self._buffers[tensor.op]
        elif tensor.op in self._constants:
            buffer = self.builder.weight(self._constants[tensor.op], tensor=name)
        else:
            layout = self._natural_layout(tensor)
            if into is not None and into.layout == layout:
                buffer = into
            else:
                buffer = self.builder.buffer(shape_of(tensor), str(tensor.dtype), layout, tensor=name)
            self._compute(tensor, buffer)
        self._buffers.setdefault(tensor.op, buffer)
        if into is None or buffer.name == into.name:
            return buffer
        self.builder.copy(buffer, into, self.nodes)
        return into

    def in_layout(self, tensor: te.Tensor, layout: Layout) -> Buffer:
        """A tensor in memory, in the given layout."""
        values = self._constants.get(tensor.op)
        if values is not None:
            return self.builder.weight(values, layout)
        return self.builder.in_layout(self.to_memory(tensor), layout, self.nodes)

    def _compute(self, tensor: te.Tensor, result: Buffer) -> None:
        if not math.prod(shape_of(tensor)):
            return
        if tensor.op in self._anchors:
            self._emit(tensor, tensor, result)
            return
        if self._as_epilogue(tensor, result):
            return
        for leaf in self._open_anchors(tensor, through_reductions=True):
            self.to_memory(leaf)
        while not isinstance(plan := plan_rows(tensor, lambda each: each.op in self._buffers), RowPlan):
            self.to_memory(plan)
        sources, buffers = self._sources_of(row_leaves(plan), len(tensor.shape), result.layout)
        if plan.stages:
            definition = rows(plan, result.layout, sources, self.builder.machine)
        else:
            definition = elementwise(tensor, result.layout, sources, self.builder.machine)
        self.builder.call(definition, buffers, [result], self.nodes)

    def _as_epilogue(self, tensor: te.Tensor, result: Buffer) -> bool:
        """Compute a tensor on the way of an open anchor's result to memory, if it is element-wise over one.

        Not if that result has to be in memory anyway, because the tensor needs reductions of it.
        """
        open_anchors = self._open_anchors(tensor) if is_inlined(tensor) else []
        if not open_anchors:
            return False
        last = open_anchors[-1]
        reductions = self._open_reductions(tensor)
        reduced = [each.op for leaf in reductions for each in self._open_anchors(leaf, through_reductions=True)]
        if last.op in reduced or not self._is_epilogue(tensor, last) or self._anchors[last.op].layout != result.layout:
            return False
        for other in (*reductions, *open_anchors[:-1]):
            self.to_memory(other)
        if last.op in self._buffers:  # one of the others is computed from it
            return False
        self._emit(last, tensor, result)
        return True

    def _open_anchors(self, tensor: te.Tensor, *, through_reductions: bool = False) -> list[te.Tensor]:
        """The anchors without a kernel that a tensor is computed from."""
        found: dict[te.Operation, te.Tensor] = {}
        for leaf in leaves(tensor):
            if leaf.op in self._buffers:
                continue
            if leaf.op in self._anchors:
                found.setdefault(leaf.op, leaf)
            elif through_reductions and is_reduction(leaf):
                for anchor in self._open_anchors(leaf, through_reductions=True):
                    found.setdefault(anchor.op, anchor)
        return list(found.values())

    def _open_reductions(self, tensor: te.Tensor) -> list[te.Tensor]:
        """The reductions that a tensor needs, itself if it is one, and that are not in memory."""
        candidates = leaves(tensor) if is_inlined(tensor) else [tensor]
        return [each for each in candidates if is_reduction(each) and each.op not in self._buffers]

    def _emit(self, anchor: te.Tensor, stored: te.Tensor, result: Buffer) -> None:
        others = [leaf for leaf in leaves(stored) if not leaf.same_as(anchor)] if not stored.same_as(anchor) else []
        sources, buffers = self._sources_of(others, len(stored.shape), result.layout)
        epilogue = Epilogue(stored, anchor, tuple(sources), result.layout)
        self._anchors[anchor.op].emit(epilogue, buffers, result)

    def _is_epilogue(self, tensor: te.Tensor, anchor: te.Tensor) -> bool:
        """Whether a tensor's every element needs the anchor's element at the same place, and no other."""
        if not self._anchors[anchor.op].takes_epilogue or shape_of(tensor) != shape_of(anchor):
            return False
        blocked = self._anchors[anchor.op].layout.block
        for leaf, indices, variables in _accesses(tensor):
            if leaf.same_as(anchor):
                own = zip(indices, variables, shape_of(anchor), strict=True)
                if any(size > 1 and identity(index) != identity(variable) for index, variable, size in own):
                    return False
            elif blocked and not self._follows_channels(leaf, indices, variables, blocked):
                return False
        return True

    def _follows_channels(
        self, leaf: te.Tensor, indices: Sequence[tirx.Expr], variables: Sequence[tirx.Var], block: int
    ) -> bool:
        """Whether a blocked kernel can read this operand: by its own block and lane, or one that all share."""
        if len(indices) != len(variables) or len(indices) < 3:
            return not any(_mentions(index, variables[1]) for index in indices)
        channels = shape_of(leaf)[1]
        if any(_mentions(index, variables[1]) for axis, index in enumerate(indices) if axis != 1):
            return False
        if identity(indices[1]) == identity(variables[1]) or channels == 1:
            return True
        shift = sym.Analyzer().simplify(indices[1] - variables[1])
        return isinstance(shift, tirx.IntImm) and int(shift) % block == 0

    def _natural_layout(self, tensor: te.Tensor) -> Layout:
        """Blocked if something that it is computed from is, and its channels are that tensor's; else plain."""
        if tensor.op in self._anchors:
            return self._anchors[tensor.op].layout
        block = self.builder.blocked.block
        if len(tensor.shape) < 3:
            return PLAIN
        found = False
        for leaf, indices, variables in _accesses(tensor):
            follows = self._follows_channels(leaf, indices, variables, block)
            if not follows:
                return PLAIN
            found = found or (self._layout_of(leaf).block > 0 and len(indices) == len(variables))
        return self.builder.blocked if found else PLAIN

    def _layout_of(self, leaf: te.Tensor) -> Layout:
        if leaf.op in self._buffers:
            return self._buffers[leaf.op].layout
        if leaf.op in self._anchors or is_reduction(leaf):
            return self._natural_layout(leaf)
        return PLAIN

    def _sources(self, tensor: te.Tensor, layout: Layout) -> tuple[list[Source], list[Buffer]]:
        return self._sources_of(leaves(tensor), len(tensor.shape), layout)

    def _sources_of(self, tensors: Sequence[te.Tensor], rank: int, layout: Layout) -> tuple[list[Source], list[Buffer]]:
        """The operands of a kernel whose result has this rank and layout, in memory.

        A blocked kernel reads blocked operands; a plain one reads them as they are.
        """
        buffers = []
        for tensor in tensors:
            if layout.block and len(tensor.shape) == rank:
                buffers.append(self.in_layout(tensor, layout))
            else:
                buffers.append(self.to_memory(tensor))
        return [Source(t, b.layout) for t, b in zip(tensors, buffers, strict=True)], buffers


_LITERALS = frozenset(
    ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
)

Access = tuple[te.Tensor, list[tirx.Expr], list[tirx.Var]]


def _accesses(tensor: te.Tensor) -> list[Access]:
    """Every load that computing an element takes: what is read, where, and the variables of the element's own place."""
    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(tensor.shape))]
    found: list[Access] = []

    def record(leaf: te.Tensor, indices: list[tirx.Expr]) -> tirx.Expr:
        found.append((leaf, list(indices), variables))
        return tirx.Var("value", str(leaf.dtype))

    if is_reduction(tensor):
        reduce = Reduction(tensor)
        reduce.term(variables, [tirx.Var("k", "int32") for _ in reduce.extents], record)
    else:
        evaluate(tensor, variables, record)
    return found


def _mentions(expression: tirx.Expr, variable: tirx.Var) -> bool:
    return identity(expression) == identity(variable) or any(_mentions(part, variable) for part in operands(expression))


def as_rank(values: Array, rank: int) -> Array:
    """Values with axes of size one in front, as broadcasting would add them."""
    return values.reshape((1,) * (rank - values.ndim) + values.shape) if 0 < values.ndim < rank else values
