"""The program while it is being built: buffers, weights, kernels and steps."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm_ffi
from tvm import te

from lepton_compile.errors import ShapeError
from lepton_compile.kernels.elementwise import elementwise
from lepton_compile.kernels.kernel import Definition, Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.lowering.choosing import Algorithm, Problem
from lepton_compile.lowering.in_place import compute_in_place
from lepton_compile.lowering.memory import plan_memory, timeline, touched
from lepton_compile.lowering.placement import place
from lepton_compile.lowering.program import (
    Buffer,
    Call,
    Choice,
    If,
    Kernel,
    Program,
    Require,
    Shape,
    Step,
    Storage,
)

# Below this many operations or bytes, waking threads takes longer than the work.
SERIAL_OPERATIONS = 100_000
SERIAL_BYTES = 64 * 1024


class Builder:
    """Collects a program.

    Attributes:
        machine: What kernel families need to know of the target.
        blocked: The blocked layout of this machine.
        tuning: Names of algorithms by the key of the problem that they are to solve.
        exact_order: Whether sums must be sums of products of the model's own numbers: no minimal filtering, and no
            pixels that share a vector.
        choices: What was decided, node by node.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        *,
        tuning: Mapping[str, str] | None = None,
        exact_order: bool = False,
    ) -> None:
        self.name = name
        self.tuning = tuning or {}
        self.exact_order = exact_order
        self.machine = machine
        self.blocked = Layout(machine.lanes)
        self.buffers: dict[str, Buffer] = {}
        self.weights: dict[str, npt.NDArray[Any]] = {}
        self.kernels: dict[str, Kernel] = {}
        self.inputs: list[Buffer] = []
        self.outputs: list[Buffer] = []
        self.choices: list[Choice] = []
        self.problems: dict[str, Problem] = {}
        self._steps: list[Step] = []
        self._kernels_by_hash: dict[int, list[Kernel]] = {}
        self._weights_by_hash: dict[str, Buffer] = {}
        self._converted: dict[tuple[str, Layout], Buffer] = {}
        self._families: dict[str, int] = {}

    @property
    def small(self) -> bool:
        """Whether the library is to be small: no minimal filtering, integers stay integers where that is slower."""
        return self.machine.small

    def buffer(
        self,
        shape: Sequence[int],
        dtype: str,
        layout: Layout = PLAIN,
        *,
        storage: Storage = Storage.ARENA,
        tensor: str | None = None,
        view_of: str | None = None,
        offset: int = 0,
    ) -> Buffer:
        """A new buffer.

        Raises:
            ShapeError: Padded to whole blocks, it has more elements than kernels can count in 32 bits.
        """
        prefix = {Storage.INPUT: "in", Storage.OUTPUT: "out", Storage.WEIGHT: "w", Storage.ARENA: "b"}[storage]
        made = Buffer(f"{prefix}{len(self.buffers)}", tuple(shape), dtype, layout, storage, tensor, view_of, offset)
        if layout.block and math.prod(made.physical_shape()) >= 2**31:
            raise ShapeError(
                f"tensor '{tensor or made.name}' of shape {list(shape)} has 2^31 elements or more in blocks of "
                f"{layout.block} channels; bind smaller shapes",
                tensor=tensor or made.name,
            )
        self.buffers[made.name] = made
        return made

    def weight(self, values: npt.NDArray[Any], layout: Layout = PLAIN, tensor: str | None = None) -> Buffer:
        """A read-only buffer of these values, given in their logical shape; equal ones are kept once."""
        packed = np.ascontiguousarray(_blocked(values, layout.block) if layout.block else values)
        digest = hashlib.sha256(f"{values.shape} {packed.shape} {packed.dtype}".encode())
        if packed.size:
            digest.update(packed.reshape(-1).view(np.uint8).data)
        key = digest.hexdigest()
        if key not in self._weights_by_hash:
            made = self.buffer(values.shape, values.dtype.name, layout, storage=Storage.WEIGHT, tensor=tensor)
            self.weights[made.name] = packed
            self._weights_by_hash[key] = made
        return self._weights_by_hash[key]

    def view(
        self, source: Buffer, shape: Shape, tensor: str | None, layout: Layout = PLAIN, *, offset: int = 0
    ) -> Buffer:
        """The same memory, or, from `offset` bytes on, a part of it, under another shape."""
        return self.buffer(
            [int(size) for size in shape],
            source.dtype,
            layout,
            storage=source.storage,
            tensor=tensor,
            view_of=source.name,
            offset=offset,
        )

    def call(
        self, definition: Definition, inputs: Sequence[Buffer], outputs: Sequence[Buffer], nodes: Sequence[str]
    ) -> None:
        """Run a kernel; equal kernels are kept once."""
        kernel = self._kernel(definition, tuple(nodes))
        arguments = [*inputs, *outputs]
        worth = definition.operations >= SERIAL_OPERATIONS or sum(b.nbytes() for b in arguments) >= SERIAL_BYTES
        parallel = definition.blocks > 1 and worth
        self._steps.append(Call(kernel.name, tuple(b.name for b in arguments), tuple(nodes), parallel))

    def choose(self, problem: Problem) -> Algorithm:
        """The algorithm that the tuning names, if it is one of them, or the one that is predicted to be fastest."""
        self.problems[problem.key] = problem
        return problem.chosen(self.tuning)

    def branch(self, condition: Buffer, then: Sequence[Step], otherwise: Sequence[Step], node: str) -> None:
        """Run one of two lists of steps."""
        self._steps.append(If(condition.name, tuple(then), tuple(otherwise), node))

    def require(self, condition: Buffer, message: str, node: str) -> None:
        """Stop the run with an error unless a buffer holds true."""
        self._steps.append(Require(condition.name, message, node))

    @contextlib.contextmanager
    def collect(self) -> Iterator[list[Step]]:
        """Gather the steps that are added meanwhile in a list of their own.

        What a branch computed is not there when the other is taken: conversions are forgotten at its end.
        """
        outer, converted = self._steps, self._converted
        self._steps, self._converted = [], dict(converted)
        try:
            yield self._steps
        finally:
            self._steps, self._converted = outer, converted

    def in_layout(self, source: Buffer, layout: Layout, nodes: Sequence[str]) -> Buffer:
        """The same tensor in another layout, converted once."""
        if source.layout == layout:
            return source
        key = (source.name, layout)
        if key not in self._converted:
            shape = [int(size) for size in source.shape]
            if layout == PLAIN and shape[0] == 1 and math.prod(shape[2:]) == 1:
                # One image of one pixel: the blocked channels already lie side by side.
                self._converted[key] = self.view(source, tuple(shape), source.tensor)
            else:
                made = self.buffer(shape, source.dtype, layout, tensor=source.tensor)
                self.copy(source, made, nodes)
                self._converted[key] = made
        return self._converted[key]

    def copy(self, source: Buffer, destination: Buffer, nodes: Sequence[str]) -> None:
        """Copy a tensor, whatever the two layouts."""
        if not source.nbytes():
            return
        x = te.placeholder([int(size) for size in source.shape], source.dtype, name="x")
        y = te.compute(x.shape, lambda *i: x(*i), name="copy")
        made = elementwise(y, destination.layout, [Source(x, source.layout)], self.machine)
        self.call(replace(made, family="copy"), [source], [destination], nodes)

    def finish(self, notes: Sequence[str] = ()) -> Program:
        """The program; `notes` go with it."""
        buffers, steps = place(self.buffers, self.kernels, self._steps)
        used = {name for step in timeline(steps) for name in touched(step)}
        buffers = compute_in_place(buffers, self.kernels, steps, self.outputs)
        memory = plan_memory(buffers, steps, self.outputs)
        pending = list(used)
        while pending:  # what a view shares, through views of views
            source = buffers[pending.pop()].view_of
            if source is not None and source not in used:
                used.add(source)
                pending.append(source)
        weights = {name: values for name, values in self.weights.items() if name in used}
        buffers = {
            name: buffer for name, buffer in buffers.items() if buffer.storage is not Storage.WEIGHT or name in used
        }
        return Program(
            name=self.name,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            buffers=buffers,
            weights=weights,
            kernels=self.kernels,
            steps=steps,
            memory=memory,
            notes=tuple(notes),
            choices=tuple(self.choices),
            problems=tuple(self.problems.values()),
            small=self.small,
        )

    def _kernel(self, definition: Definition, nodes: tuple[str, ...]) -> Kernel:
        key = tvm_ffi.structural_hash(definition.function)
        for known in self._kernels_by_hash.get(key, []):
            if known.family == definition.family and tvm_ffi.structural_equal(known.function, definition.function):
                return known
        number = self._families.get(definition.family, 0)
        self._families[definition.family] = number + 1
        made = Kernel(
            name=f"{definition.family.replace(' ', '_')}_{number}",
            function=definition.function,
            inputs=definition.inputs,
            outputs=len(definition.function.params) - definition.inputs,
            blocks=definition.blocks,
            family=definition.family,
            operations=definition.operations,
            nodes=nodes,
            filled=definition.filled,
            copies=definition.copies,
            in_place=definition.in_place,
        )
        self.kernels[made.name] = made
        self._kernels_by_hash.setdefault(key, []).append(made)
        return made


def _blocked(values: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """Values of shape (n, channels, spatial...) in blocked layout, zeros past the last channel."""
    n, channels, *spatial = values.shape
    blocks = -(-channels // block)
    padded = np.zeros((n, blocks * block, *spatial), values.dtype)
    padded[:, :channels] = values
    return np.moveaxis(padded.reshape(n, blocks, block, *spatial), 2, -1)
