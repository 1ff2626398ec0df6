"""What every kernel family returns, and how it reaches its operands.

A family is a function from a computation, its shapes and layouts, and a `Machine` to a `Definition`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm import sym, te, tirx

from lepton_compile.kernels.expressions import count_operations, evaluate
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.loops import load, parameter


@dataclass(frozen=True)
class Machine:
    """What a kernel family needs to know of the instruction set.

    Attributes:
        lanes: float32 values in a vector register.
        registers: Vector registers.
        l1_bytes: Size of the level-1 data cache of a core.
        l2_bytes: Size of the level-2 cache of a core.
        threads: Threads that share a kernel's work.
        fused_multiply_add: Whether there is an instruction that multiplies and adds with one rounding.
        dot_products: Name of the instruction that adds products of four bytes to each int32 lane; see
            `lepton_compile.kernels.byte_products`. Empty if there is none.
        bfloat16_dot_products: Whether an instruction adds products of two pairs of bfloat16 to each float32 lane.
        small: Whether code and packed weights are to take little space where that costs time.
    """

    lanes: int
    registers: int
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    threads: int = 1
    fused_multiply_add: bool = False
    dot_products: str = ""
    bfloat16_dot_products: bool = False
    small: bool = False


def imbalance(blocks: int, machine: Machine) -> float:
    """How many times longer than an even split the threads need for equal blocks of work."""
    return math.ceil(blocks / machine.threads) * machine.threads / blocks


def filled(outputs: int, machine: Machine) -> float:
    """What share of the lanes of the vectors that so many outputs lie in they fill."""
    return outputs / (math.ceil(outputs / machine.lanes) * machine.lanes)


@dataclass(frozen=True)
class Definition:
    """A kernel without a name.

    Attributes:
        function: Parameters are buffers, inputs first; the outermost loop is parallel.
        inputs: How many of the parameters are inputs; the rest are outputs.
        blocks: Extent of the outermost loop.
        family: Name of the kernel family.
        operations: Floating-point operations, a multiply-add counting as two.
        filled: What share of the lanes that operations are done in holds something.
        copies: Where all that it does is to copy a range of its only input's memory: the place in it, in elements, of
            the output's first.
        in_place: The inputs, of the only output's type and size, whose every element is read at its own place in memory
            alone and before that is written: the output may take their memory.
    """

    function: tirx.PrimFunc
    inputs: int
    blocks: int
    family: str
    operations: int
    filled: float = 1.0
    copies: int | None = None
    in_place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """A tensor that a kernel reads, and how it lies in memory."""

    tensor: te.Tensor
    layout: Layout


def shape_of(tensor: te.Tensor) -> tuple[int, ...]:
    """A tensor's shape as integers."""
    return tuple(int(extent) for extent in tensor.shape)


def physical(layout: Layout, indices: Sequence[tirx.Expr], analyzer: sym.Analyzer) -> list[tirx.Expr]:
    """Where the element at these logical indices lies; `analyzer` knows the ranges of their variables."""
    if not layout.block:
        return list(indices) or [tirx.const(0, "int32")]
    n, c, *spatial = indices
    return [
        n,
        analyzer.simplify(tirx.floordiv(c, layout.block)),
        *spatial,
        analyzer.simplify(tirx.floormod(c, layout.block)),
    ]


class Operands:
    """Input parameters of a kernel, one for each tensor that it reads; `first` of them came before these.

    What an epilogue reads are operands of its own: a residual may be the kernel's input in another layout. A truth
    value is read as the byte that it is in memory: a vector of booleans would be packed bits.
    """

    def __init__(self, sources: Sequence[Source], analyzer: sym.Analyzer, first: int = 0) -> None:
        self._analyzer = analyzer
        self._layouts: Mapping[te.Operation, Layout] = {source.tensor.op: source.layout for source in sources}
        self._buffers: Mapping[te.Operation, tirx.Buffer] = {
            source.tensor.op: parameter(
                f"x{number}",
                source.layout.physical_shape(shape_of(source.tensor)),
                "uint8" if str(source.tensor.dtype) == "bool" else str(source.tensor.dtype),
            )
            for number, source in enumerate(sources, first)
        }

    @property
    def parameters(self) -> list[tirx.Buffer]:
        """The parameters in the order of the sources."""
        return list(self._buffers.values())

    def buffer(self, tensor: te.Tensor) -> tirx.Buffer:
        """The parameter of a source."""
        return self._buffers[tensor.op]

    def load(self, tensor: te.Tensor, indices: Sequence[tirx.Expr]) -> tirx.Expr:
        """An element of a source, at logical indices."""
        value = load(self.buffer(tensor), physical(self._layouts[tensor.op], indices, self._analyzer))
        return tirx.NE(value, tirx.const(0, "uint8")) if str(tensor.dtype) == "bool" else value


@dataclass(frozen=True)
class Epilogue:
    """What happens to a value on its way from a register to memory: bias, activation, residual.

    Attributes:
        result: The tensor that is stored; element-wise in `anchor`.
        anchor: A placeholder for the value that the kernel computes, of the same shape.
        sources: The other tensors that the result is computed from.
        layout: How the result lies in memory.
    """

    result: te.Tensor
    anchor: te.Tensor
    sources: tuple[Source, ...]
    layout: Layout

    def cost(self, inputs: Operands) -> int:
        """Floating-point operations on each value."""
        place = [tirx.Var(f"p{axis}", "int32") for axis in range(len(self.result.shape))]
        return count_operations(self.apply(tirx.Var("value", str(self.anchor.dtype)), place, inputs))

    def apply(self, value: tirx.Expr, indices: Sequence[tirx.Expr], inputs: Operands) -> tirx.Expr:
        """The value to store for one that was computed at these logical indices."""
        return evaluate(
            self.result,
            indices,
            lambda tensor, at: value if tensor.same_as(self.anchor) else inputs.load(tensor, at),
        )
