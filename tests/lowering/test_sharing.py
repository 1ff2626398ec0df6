"""Shared memory changes no answer: random programs run in plain Python, with memory of their own and as placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_compile.lowering import in_place
from lepton_compile.lowering.memory import plan_memory
from lepton_compile.lowering.placement import place
from lepton_compile.lowering.program import Buffer, Call, If, Kernel, Step, Storage, calls_of, location

FLOAT = 4
SIZES = (2, 4, 8)  # few, so that tensors fit into and onto each other
KERNELS = {
    "add": Kernel("add", None, 2, 1, 1, "map", 1, (), in_place=(0, 1)),
    "add_reversed": Kernel("add_reversed", None, 2, 1, 1, "map", 1, (), in_place=(0,)),
    **{
        f"copy_{first}": Kernel(f"copy_{first}", None, 1, 1, 1, "copy", 1, (), copies=first) for first in range(200)
    },
}  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass
class Made:
    """A program in the making."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    outputs: list[Buffer] = field(default_factory=list)

    def new(self, size: int, storage: Storage = Storage.ARENA, view_of: str | None = None, offset: int = 0) -> str:
        name = f"b{len(self.buffers)}"
        self.buffers[name] = Buffer(name, (size,), "float32", storage=storage, view_of=view_of, offset=FLOAT * offset)
        if storage is Storage.OUTPUT and view_of is None:
            self.outputs.append(self.buffers[name])
        return name

    def size(self, name: str) -> int:
        return int(self.buffers[name].shape[0])


@st.composite
def programs(draw: st.DrawFn) -> tuple[Made, tuple[Step, ...]]:
    """Sums, concatenations, parts, views and branches over what was computed before."""
    made = Made()
    for _ in range(2):
        made.new(draw(st.sampled_from(SIZES)), Storage.INPUT)

    inside_branches = 0

    def result(size: int) -> str:
        may_be_output = [] if inside_branches else [Storage.OUTPUT]  # outputs are written whichever side is taken
        return made.new(size, draw(st.sampled_from([Storage.ARENA] * 5 + may_be_output)))

    def add(readable: list[str], into: str | None = None) -> list[Step]:
        first = draw(st.sampled_from(readable[-3:]))
        if into is not None:
            fitting = [name for name in readable if made.size(name) == made.size(into)]
            first = draw(st.sampled_from(fitting))
        second = draw(st.sampled_from([name for name in readable if made.size(name) == made.size(first)]))
        written = into or result(made.size(first))
        readable.append(written)
        return [Call(draw(st.sampled_from(["add", "add_reversed"])), (first, second, written), ())]

    def part(readable: list[str]) -> list[Step]:
        source = draw(st.sampled_from(readable[-3:]))
        size = draw(st.sampled_from([size for size in SIZES if size <= made.size(source)]))
        begin = draw(st.sampled_from(range(0, made.size(source) - size + 1, SIZES[0])))
        written = result(size)
        readable.append(written)
        return [Call(f"copy_{begin}", (source, written), ())]

    def concatenate(readable: list[str]) -> list[Step]:
        parts = draw(st.lists(st.sampled_from(readable[-4:]), min_size=1, max_size=4))
        if sum(map(made.size, parts)) > 150:
            return []
        whole = result(sum(map(made.size, parts)))
        steps: list[Step] = []
        offset = 0
        for name in parts:
            view = made.new(made.size(name), made.buffers[whole].storage, whole, offset)
            steps.append(Call("copy_0", (name, view), ()))
            offset += made.size(name)
        readable.append(whole)
        return steps

    def view(readable: list[str]) -> list[Step]:
        source = draw(st.sampled_from(readable))
        readable.append(made.new(made.size(source), made.buffers[source].storage, source))
        return []

    def branch(readable: list[str], depth: int) -> list[Step]:
        nonlocal inside_branches
        condition, alike = draw(st.sampled_from(readable)), draw(st.sampled_from(readable))
        written = result(made.size(alike))
        sides = []
        inside_branches += 1
        for _ in range(2):
            inside = list(readable)
            steps = grow(inside, depth - 1)
            fitting = [name for name in inside if made.size(name) == made.size(written)]
            if draw(st.booleans()):
                steps.append(Call("copy_0", (draw(st.sampled_from(fitting)), written), ()))
            else:
                steps += add(inside, written)
            sides.append(tuple(steps))
        inside_branches -= 1
        readable.append(written)
        return [If(condition, sides[0], sides[1], "if")]

    def grow(readable: list[str], depth: int) -> list[Step]:
        steps: list[Step] = []
        for _ in range(draw(st.integers(1, 6))):
            grown: Callable[[list[str]], list[Step]] = draw(
                st.sampled_from([add, add, part, concatenate, concatenate, view])
            )
            steps += branch(readable, depth) if depth and draw(st.integers(0, 4)) == 0 else grown(readable)
        return steps

    readable = list(made.buffers)
    steps = grow(readable, 2)
    last = made.new(made.size(readable[-1]), Storage.OUTPUT)
    return made, (*steps, Call("copy_0", (readable[-1], last), ()))


def run(steps: Sequence[Step], memory: Callable[[str], Array]) -> None:
    """Run the steps, element by element, in the memory that each buffer has."""
    for step in steps:
        if isinstance(step, If):
            run(step.then_steps if memory(step.condition)[0] > 0 else step.else_steps, memory)
            continue
        assert isinstance(step, Call)
        *read, result = (memory(name) for name in step.arguments)
        kernel = KERNELS[step.kernel]
        for i in range(result.size):
            if kernel.copies is not None:
                result[i] = read[0][kernel.copies + i]
            else:
                result[i] = read[0][i] + 3 * read[1][i if step.kernel == "add" else result.size - 1 - i] + 1


def answers(
    buffers: dict[str, Buffer], steps: Sequence[Step], made: Made, seed: int, arena: dict[str, Array] | None = None
) -> list[Array]:
    """The outputs of a run on random inputs; `arena`: the memory of owners that do not have memory of their own."""
    random = np.random.default_rng(seed)
    owned = dict(arena or {})
    for name, buffer in buffers.items():
        if buffer.storage is Storage.INPUT and buffer.view_of is None:
            owned[name] = random.standard_normal(buffer.shape).astype(np.float32)
        elif buffer.view_of is None:
            owned.setdefault(name, np.full(buffer.shape, np.nan, np.float32))
    given = {
        name: owned[name].copy()
        for name, buffer in buffers.items()
        if name in owned and buffer.storage is Storage.INPUT
    }

    def memory(name: str) -> Array:
        owner, offset = location(buffers, name)
        return owned[owner][offset // FLOAT :][: made.size(name)]

    run(steps, memory)
    for name, values in given.items():
        np.testing.assert_array_equal(owned[name], values)
    return [owned[output.name] for output in made.outputs]


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "IN_PLACE_BYTES", 0)


@given(programs(), st.integers(0, 99), st.booleans())
@settings(max_examples=300, deadline=None)
def test_answers_stay_as_they_were(program, seed: int, lent: bool) -> None:
    """`lent`: outputs lie in the arena, otherwise in memory of the caller."""
    made, steps = program
    expected = answers(made.buffers, steps, made, seed)
    placed, left = place(made.buffers, KERNELS, steps)
    shared = in_place.compute_in_place(placed, KERNELS, left, made.outputs)
    plan = plan_memory(shared, left, made.outputs)
    arena = np.full(plan.arena_bytes // FLOAT, np.nan, np.float32)
    memory = {
        name: arena[offset // FLOAT :][: made.size(name)]
        for name, offset in plan.offsets.items()
        if lent or shared[name].storage is Storage.ARENA
    }
    for got, wanted in zip(answers(shared, left, made, seed, memory), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@given(programs())
@settings(deadline=None)  # busy machines
def test_sharing_adds_no_steps_and_hides_no_outputs(program) -> None:
    made, steps = program
    placed, left = place(made.buffers, KERNELS, steps)
    assert set(calls_of(left)) <= set(calls_of(steps))
    assert all(placed[output.name].view_of is None for output in made.outputs)
    assert all(placed[name] == buffer for name, buffer in made.buffers.items() if buffer.storage is Storage.INPUT)


def program_of(*sizes: int) -> Made:
    made = Made()
    for size in sizes:
        made.new(size, Storage.INPUT if not made.buffers else Storage.ARENA)
    return made


def concatenation(made: Made, *parts: str, storage: Storage = Storage.ARENA) -> tuple[str, list[Step]]:
    whole = made.new(sum(map(made.size, parts)), storage)
    steps: list[Step] = []
    offset = 0
    for name in parts:
        steps.append(Call("copy_0", (name, made.new(made.size(name), storage, whole, offset)), ()))
        offset += made.size(name)
    return whole, steps


def test_a_chain_of_concatenations_shares_one_buffer() -> None:
    made = program_of(4, 4, 4, 4)
    x, *grown = made.buffers
    steps: list[Step] = [Call("add", (x, x, grown[0]), ())]
    whole = grown[0]
    for name in grown[1:]:
        steps.append(Call("add", (x, x, name), ()))
        whole, copies = concatenation(made, whole, name)
        steps += copies
    placed, left = place(made.buffers, KERNELS, steps)
    assert [call.kernel for call in calls_of(left)] == ["add"] * 3
    assert {location(placed, name) for name in grown} == {(whole, 0), (whole, 16), (whole, 32)}


def test_what_was_split_is_concatenated_where_it_lies() -> None:
    made = program_of(8, 8)
    x, y = made.buffers
    halves = [made.new(4), made.new(4)]
    steps: list[Step] = [Call("add", (x, x, y), ())]
    steps += [Call(f"copy_{4 * i}", (y, half), ()) for i, half in enumerate(halves)]
    extra = made.new(4)
    steps.append(Call("add", (*halves, extra), ()))
    whole, copies = concatenation(made, *halves, extra)
    placed, left = place(made.buffers, KERNELS, [*steps, *copies])
    assert [call.kernel for call in calls_of(left)] == ["add", "add"]
    assert location(placed, y) == (whole, 0)
    assert location(placed, halves[1]) == (whole, 16)


def test_what_does_not_fit_as_a_whole_is_copied() -> None:
    made = program_of(8, 8, 4)
    x, y, z = made.buffers
    half = made.new(4)
    steps: list[Step] = [Call("add", (x, x, y), ()), Call("copy_0", (y, half), ()), Call("copy_4", (x, z), ())]
    whole, copies = concatenation(made, half, z)  # of y's size, but its second half is not y's
    placed, left = place(made.buffers, KERNELS, [*steps, *copies, Call("add", (y, whole, made.new(8)), ())])
    assert location(placed, y) == (y, 0)
    assert location(placed, half) == (y, 0)
    assert [call.kernel for call in calls_of(left)] == ["add", "copy_0", "copy_0", "add"]


def test_an_operand_that_is_there_twice_is_copied_once() -> None:
    made = program_of(4, 4)
    x, y = made.buffers
    _, copies = concatenation(made, y, y)
    _, left = place(made.buffers, KERNELS, [Call("add", (x, x, y), ()), *copies])
    assert [call.kernel for call in calls_of(left)] == ["add", "copy_0"]


def test_inputs_are_copied_and_parts_of_them_are_not() -> None:
    made = program_of(4)
    (x,) = made.buffers
    part, output = made.new(2), made.new(2, Storage.OUTPUT)
    steps = [Call("copy_1", (x, part), ()), Call("copy_0", (part, output), ())]
    placed, left = place(made.buffers, KERNELS, steps)
    assert location(placed, part) == (x, 4)
    assert list(calls_of(left)) == steps[1:]


def test_a_result_takes_the_memory_of_an_operand_that_dies() -> None:
    made = program_of(4, 4, 4, 4)
    x, a, b, c = made.buffers
    output = made.new(4, Storage.OUTPUT)
    steps = [
        Call("add", (x, x, a), ()),
        Call("add", (a, x, b), ()),
        Call("add_reversed", (x, b, c), ()),  # reads b elsewhere
        Call("add", (b, c, output), ()),
    ]
    shared = in_place.compute_in_place(made.buffers, KERNELS, steps, made.outputs)
    assert [shared[name].view_of for name in (a, b, c, output)] == [None, a, None, None]
