"""The memory plan: whatever the program, nothing that is still needed is overwritten."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_compile.lowering.memory import ALIGNMENT, lifetimes, plan_memory
from lepton_compile.lowering.program import Buffer, Call, If, Step, Storage, location


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[str, Buffer], tuple[Step, ...], list[Buffer]]:
    """Steps that read what was written before, views and branches among them, and write something new."""
    buffers = {"in0": Buffer("in0", (7,), "float32", storage=Storage.INPUT)}
    outputs = []

    def new(readable: list[str]) -> str:
        name = f"b{len(buffers)}"
        if draw(st.integers(0, 3)) == 0:
            source = buffers[draw(st.sampled_from(readable))]
            buffers[name] = Buffer(name, source.shape, source.dtype, storage=source.storage, view_of=source.name)
            return name
        storage = Storage.OUTPUT if draw(st.integers(0, 4)) == 0 else Storage.ARENA
        buffers[name] = Buffer(name, (draw(st.integers(0, 300)),), "float32", storage=storage)
        if storage is Storage.OUTPUT:
            outputs.append(buffers[name])
        return name

    def steps(readable: list[str], depth: int) -> tuple[Step, ...]:
        made: list[Step] = []
        for _ in range(draw(st.integers(1, 6))):
            if depth and draw(st.integers(0, 4)) == 0:
                sides = steps(list(readable), depth - 1), steps(list(readable), depth - 1)
                made.append(If(draw(st.sampled_from(readable)), *sides, "if"))
                continue
            read = draw(st.lists(st.sampled_from(readable), min_size=1, max_size=3))
            written = new(readable)
            if buffers[written].view_of is None:
                made.append(Call("kernel", (*read, written), ()))
            readable.append(written)
        return tuple(made)

    return buffers, steps(["in0"], 2), outputs


def runs(steps: Sequence[Step]) -> list[list[tuple[str, ...]]]:
    """Every way through the branches: what each step on the way touches."""
    ways: list[list[tuple[str, ...]]] = [[]]
    for step in steps:
        if isinstance(step, Call):
            ways = [[*way, step.arguments] for way in ways]
        else:
            sides = [*runs(step.then_steps), *runs(step.else_steps)]
            ways = [[*way, (step.condition,), *side] for way in ways for side in sides]
    return ways


@given(programs())
@settings(deadline=None)  # busy machines
def test_what_is_needed_again_is_not_overwritten(program) -> None:
    buffers, steps, outputs = program
    plan = plan_memory(buffers, steps, outputs)
    for way in runs(steps):
        # The last use of a buffer is found for this way alone; an output is needed after the end.
        last = {location(buffers, name)[0]: time for time, names in enumerate(way) for name in names}
        last.update((output.name, len(way)) for output in outputs)
        first: dict[str, int] = {}
        for time, names in enumerate(way):
            for name in names:
                first.setdefault(location(buffers, name)[0], time)
        alive = [name for name in first if name in plan.offsets]
        for one in alive:
            assert plan.offsets[one] % ALIGNMENT == 0
            assert plan.offsets[one] + buffers[one].nbytes() <= plan.arena_bytes
            for other in alive:
                together = first[one] <= last[other] and first[other] <= last[one]
                if one < other and together:
                    a, b = sorted((one, other), key=lambda name: plan.offsets[name])
                    apart = plan.offsets[a] + buffers[a].nbytes() <= plan.offsets[b]
                    assert apart or not buffers[a].nbytes() or not buffers[b].nbytes()


@given(programs())
@settings(deadline=None)  # busy machines
def test_the_arena_holds_buffers_and_outputs_alone(program) -> None:
    buffers, steps, outputs = program
    plan = plan_memory(buffers, steps, outputs)
    assert "in0" not in plan.offsets
    assert all(buffers[name].view_of is None for name in plan.offsets)
    assert {output.name for output in outputs} <= set(plan.offsets)
    alive = lifetimes(buffers, steps, outputs)
    needed = [sum(each.nbytes for each in alive if each.first <= time <= each.last) for time in range(50)]
    assert plan.arena_bytes >= max(needed)


def chain(length: int) -> tuple[dict[str, Buffer], list[Step], list[Buffer]]:
    names = [f"b{place}" for place in range(length)]
    buffers = {name: Buffer(name, (256,), "float32") for name in names}
    return buffers, [Call("k", pair, ()) for pair in itertools.pairwise(names)], []


@pytest.mark.parametrize("length", [2, 10, 50])
def test_a_chain_needs_two_buffers(length: int) -> None:
    buffers, steps, outputs = chain(length)
    assert plan_memory(buffers, steps, outputs).arena_bytes == 2 * 1024


def test_a_view_keeps_its_source_alive() -> None:
    buffers = {name: Buffer(name, (256,), "float32") for name in "acde"}
    buffers["v"] = Buffer("v", (16, 16), "float32", view_of="a")
    steps = [Call("k", ("a",), ()), Call("k", ("c", "d"), ()), Call("k", ("v", "e"), ())]
    plan = plan_memory(buffers, steps, [])
    assert "v" not in plan.offsets
    assert plan.offsets["a"] not in (plan.offsets["c"], plan.offsets["d"], plan.offsets["e"])
