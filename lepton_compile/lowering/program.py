"""Program: what lowering hands to code generation.

A program is a list of named buffers, the kernels that fill them, and the order of the calls. It knows nothing of ONNX
but the names of the tensors that its buffers hold and of the nodes that its calls compute, which is what bisection,
profiles and error messages speak of. Control flow is a step of its own and becomes C control flow in the driver.

A dimension is an integer or, for a symbolic one, the name of an entry of `Program.dimensions`.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm

from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.lowering.choosing import Problem
from lepton_compile.target.target import PROCESS_BYTES

if TYPE_CHECKING:
    from tvm import tirx

Dim: TypeAlias = int | str
Shape: TypeAlias = tuple[Dim, ...]


INSTANCE_BYTES = 64 * 1024
"""What an instance takes besides its arena: its pointers, its pool of threads."""


class Storage(enum.Enum):
    """Who owns the memory of a buffer."""

    INPUT = "input"  # the caller, read only
    OUTPUT = "output"  # the caller, or the arena when the caller passes no memory
    WEIGHT = "weight"  # the read-only table of weights
    ARENA = "arena"  # the instance's arena, at an offset that the memory plan gives


@dataclass(frozen=True)
class Buffer:
    """A tensor in memory.

    Attributes:
        name: Unique in the program; a C identifier.
        shape: Logical shape, in ONNX's axis order.
        dtype: numpy's name of the element type ("float32", "int64", "bool", ...).
        layout: How the axes lie in memory.
        storage: Who owns the memory.
        tensor: The ONNX value that this buffer holds once its producer has run, if it is one.
        view_of: Another buffer in whose memory this one lies: a Reshape, or a part of it.
        offset: Bytes from the beginning of that buffer to this one's.
    """

    name: str
    shape: Shape
    dtype: str
    layout: Layout = PLAIN
    storage: Storage = Storage.ARENA
    tensor: str | None = None
    view_of: str | None = None
    offset: int = 0

    def physical_shape(self) -> tuple[int, ...]:
        """The shape in memory; raises TypeError when a dimension is symbolic."""
        sizes = tuple(dim for dim in self.shape if isinstance(dim, int))
        if len(sizes) != len(self.shape):
            raise TypeError(f"buffer {self.name} has symbolic dimensions {self.shape}")
        return self.layout.physical_shape(sizes)

    def nbytes(self) -> int:
        """Size in bytes, block padding included."""
        count = 1
        for size in self.physical_shape():
            count *= size
        return count * np.dtype(self.dtype).itemsize


def location(buffers: Mapping[str, Buffer], name: str) -> tuple[str, int]:
    """The buffer whose memory this one lies in, which may be itself, and how many bytes into it."""
    offset = 0
    while (source := buffers[name].view_of) is not None:
        offset += buffers[name].offset
        name = source
    return name, offset


@dataclass(frozen=True)
class Kernel:
    """A C function over raw pointers and a range of its outermost loop.

    `int32_t NAME(const T *in0, ..., T *out0, ..., int32_t dim0, ..., int32_t begin, int32_t end)`

    Attributes:
        name: The C function's name, without the model's prefix. Equal computations share one kernel.
        function: Its TVM function; the parameters are buffers, inputs first. Not part of equality.
        inputs: How many of the leading parameters are inputs.
        outputs: How many parameters after them are outputs.
        blocks: Extent of the outermost loop; [0, blocks) is the whole computation, and any split of it into ranges,
            run in any order or at once, gives the same result.
        family: The kernel family that made it ("convolution", "matmul", "map", "reduction", ...).
        operations: Floating-point operations of one whole call, a multiply-add counting as two.
        nodes: The ONNX node names it was first made for; what an error in building it names.
        filled, copies, in_place: As in `Definition`.
    """

    name: str
    function: tirx.PrimFunc = field(compare=False)
    inputs: int
    outputs: int
    blocks: int
    family: str
    operations: int
    nodes: tuple[str, ...]
    filled: float = 1.0
    copies: int | None = None
    in_place: tuple[int, ...] = ()

    @cached_property
    def text(self) -> str:
        """The function as JSON; the same for equal functions, whatever they are called."""
        return str(tvm.ir.save_json(self.function))

    @cached_property
    def digest(self) -> str:
        """What tells its text from others'."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Call:
    """Run one kernel over its whole range.

    Attributes:
        kernel: Name of the kernel.
        arguments: Names of the buffers, inputs first, then outputs.
        nodes: The ONNX nodes that this call computes.
        parallel: Whether the range is worth splitting over threads.
    """

    kernel: str
    arguments: tuple[str, ...]
    nodes: tuple[str, ...]
    parallel: bool = True


@dataclass(frozen=True)
class If:
    """Run one of two lists of steps; `condition` names a buffer that holds one bool."""

    condition: str
    then_steps: tuple[Step, ...]
    else_steps: tuple[Step, ...]
    node: str


@dataclass(frozen=True)
class Require:
    """Stop the run with an error unless `condition` holds; it names a buffer that holds one bool.

    Attributes:
        condition: What has to be true of the values of this run: an index within range, a divisor other than zero.
        message: What is wrong otherwise.
        node: The ONNX node that needs it.
    """

    condition: str
    message: str
    node: str


Step: TypeAlias = Call | If | Require


@dataclass(frozen=True)
class Choice:
    """Which kernel family took some nodes, and why others did not.

    Attributes:
        nodes: The ONNX nodes.
        taken: The family and how it is cut: "winograd 4x4 fused, tile 14x2, chunks of 28".
        passed_over: What else was looked at, each with the reason against it.
        weights_bytes: Size of the weights as this family needs them.
        plain_weights_bytes: Size of the weights as the model has them.
        error: Relative error (2-norm) to be expected of a family that computes otherwise than by adding up products, on
            normally distributed inputs; None for the others.
    """

    nodes: tuple[str, ...]
    taken: str
    passed_over: tuple[str, ...] = ()
    weights_bytes: int = 0
    plain_weights_bytes: int = 0
    error: float | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Where the arena's buffers lie.

    Attributes:
        offsets: Byte offset of every ARENA buffer that is no view, and of every OUTPUT buffer (used when the caller
            passes no memory for it); multiples of 64.
        arena_bytes: Size of the arena.
    """

    offsets: Mapping[str, int]
    arena_bytes: int


@dataclass(frozen=True)
class Program:
    """Buffers, kernels and the order of calls.

    Attributes:
        name: The model's name, a C identifier: the prefix of every symbol of the library.
        inputs: Buffers of the model's inputs, in order; always plain layout.
        outputs: Buffers of the model's outputs, in order; always plain layout.
        buffers: Every buffer by name, inputs, outputs, weights and views included.
        weights: Data of the WEIGHT buffers, already in their physical shape.
        kernels: Every kernel by name.
        steps: What to run, in order.
        memory: Where the arena's buffers lie.
        dimensions: Names of the symbolic dimensions, each an argument of the library's run function and of the kernels.
        notes: What the person who uses the library should know of how the model was read, a line each.
        choices: Which kernel families took which nodes, where there was a choice.
        problems: What there was a choice of algorithms for.
        small: Whether the library is to be small, at the price of speed.
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    buffers: Mapping[str, Buffer]
    weights: Mapping[str, npt.NDArray[np.generic]]
    kernels: Mapping[str, Kernel]
    steps: tuple[Step, ...]
    memory: MemoryPlan
    dimensions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    problems: tuple[Problem, ...] = ()
    small: bool = False

    @property
    def peak_bytes(self) -> int:
        """What a run takes at most: arena, weights, and the instance; inputs and outputs of the caller aside."""
        return self.memory.arena_bytes + sum(array.nbytes for array in self.weights.values()) + INSTANCE_BYTES

    @property
    def process_bytes(self) -> int:
        """What a process takes that runs it: all of that, the caller's tensors, and `PROCESS_BYTES`."""
        return self.peak_bytes + PROCESS_BYTES + sum(each.nbytes() for each in (*self.inputs, *self.outputs))

    def calls(self) -> Iterator[Call]:
        """Every call, those inside branches included, in the order they stand."""
        yield from calls_of(self.steps)


def calls_of(steps: Sequence[Step]) -> Iterator[Call]:
    """Every call of some steps, those inside branches included, in the order they stand."""
    for step in steps:
        if isinstance(step, Call):
            yield step
        elif isinstance(step, If):
            yield from calls_of(step.then_steps)
            yield from calls_of(step.else_steps)
