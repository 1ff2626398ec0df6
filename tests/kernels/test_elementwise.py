"""Element-wise kernels: how axes merge, layouts, parts of larger tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close, from_blocks, to_blocks
from tvm import te, tirx

from lepton_compile.codegen.kernels import _LOWER, plain_function
from lepton_compile.kernels import vector_math
from lepton_compile.kernels.elementwise import Part, elementwise, merged_axes
from lepton_compile.kernels.kernel import Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout

MACHINE = Machine(8, 16)
BLOCKED = Layout(8)


def tensor(*shape: int, dtype: str = "float32") -> te.Tensor:
    return te.placeholder(shape, dtype, name="x")


def in_memory(array: np.ndarray, layout: Layout) -> np.ndarray:
    return to_blocks(array, layout.block) if layout.block else array


def check(
    run,
    output: te.Tensor,
    expected: np.ndarray,
    *operands: tuple[te.Tensor, np.ndarray, Layout],
    layout: Layout = PLAIN,
    machine: Machine = MACHINE,
) -> None:
    definition = elementwise(output, layout, [Source(x, where) for x, _, where in operands], machine)
    arrays = [in_memory(array, where) for _, array, where in operands]
    actual = run(definition, *arrays, output=layout.physical_shape(expected.shape), dtype=str(output.dtype))
    actual = from_blocks(actual, expected.shape[1]) if layout.block else actual.reshape(expected.shape)
    if expected.dtype.kind == "f":
        assert_close(actual, expected)
    else:
        np.testing.assert_array_equal(actual, expected)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (4096,), (8192 + 3,), (3, 5), (2, 20, 13, 7), ()])
def test_one_operand(shape: tuple[int, ...], run) -> None:
    a, x = random(*shape), tensor(*shape)
    check(run, te.compute(shape, lambda *i: x(*i) * vector_math.sigmoid(x(*i))), a * sigmoid(a), (x, a, PLAIN))


@pytest.mark.parametrize("channels", [8, 20])
@pytest.mark.parametrize("source", [PLAIN, BLOCKED], ids=str)
@pytest.mark.parametrize("result", [PLAIN, BLOCKED], ids=str)
def test_layouts(source: Layout, result: Layout, channels: int, run) -> None:
    a, x = random(2, channels, 13, 7), tensor(2, channels, 13, 7)
    check(run, te.compute(a.shape, lambda *i: x(*i) * 2.0), a * 2, (x, a, source), layout=result)


@pytest.mark.parametrize("layout", [PLAIN, BLOCKED], ids=str)
@pytest.mark.parametrize("small", [(1, 20, 1, 1), (1, 1, 6, 7), (2, 20, 6, 1), (1, 1, 1, 1), (2, 1, 1, 7)], ids=str)
def test_broadcasting(small: tuple[int, ...], layout: Layout, run) -> None:
    a, b = random(2, 20, 6, 7), random(*small)
    x, y = tensor(*a.shape), tensor(*small)

    def spread(*i: tirx.Expr) -> tirx.Expr:
        return y(*(0 if size == 1 else index for size, index in zip(small, i, strict=True)))

    output = te.compute(a.shape, lambda *i: x(*i) * spread(*i))
    check(run, output, a * b, (x, a, layout), (y, b, layout), layout=layout)


def test_padding_lanes_never_reach_a_real_channel(run) -> None:
    """Channels in reverse order: lanes of the last block read other blocks, so the padding must not be trusted."""
    a, x = random(1, 13, 4, 3), tensor(1, 13, 4, 3)
    output = te.compute(a.shape, lambda n, c, h, w: x(n, 12 - c, h, w))
    check(run, output, a[:, ::-1], (x, a, BLOCKED), layout=BLOCKED)


def test_indices_of_any_kind(run) -> None:
    a, x = random(4, 6, 10), tensor(4, 6, 10)
    check(run, te.compute((10, 4, 6), lambda k, i, j: x(i, j, k)), a.transpose(2, 0, 1), (x, a, PLAIN))
    check(run, te.compute((2, 3, 5), lambda i, j, k: x(i * 2 + 1, j * 2, k * 2)), a[1::2, ::2, ::2], (x, a, PLAIN))
    check(run, te.compute((4, 60), lambda i, j: x(i, j // 10, j % 10)), a.reshape(4, 60), (x, a, PLAIN))
    padded = te.compute(
        (4, 6, 14),
        lambda i, j, k: tirx.if_then_else(tirx.all(k >= 2, k < 12), x(i, j, k - 2), tirx.const(0, "float32")),
    )
    check(run, padded, np.pad(a, ((0, 0), (0, 0), (2, 2))), (x, a, PLAIN))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float64"])
def test_types(dtype: str, run) -> None:
    a = np.arange(-30, 30).astype(dtype).reshape(3, 20)
    x = tensor(3, 20, dtype=dtype)
    check(run, te.compute(a.shape, lambda *i: x(*i) + x(*i)), a + a, (x, a, PLAIN))


def test_truth(run) -> None:
    a, x = random(3, 50), tensor(3, 50)
    output = te.compute(a.shape, lambda *i: x(*i) > 0)
    check(run, output, a > 0, (x, a, PLAIN))
    b, y = a > 0, tensor(3, 50, dtype="bool")
    chosen = te.compute(a.shape, lambda *i: tirx.Select(y(*i), x(*i), tirx.const(-1, "float32")))
    check(run, chosen, np.where(b, a, np.float32(-1)), (x, a, PLAIN), (y, b, PLAIN))


def test_instruction_sets(machine: Machine, run) -> None:
    a, x = random(1, 21, 5, 9), tensor(1, 21, 5, 9)
    layout = Layout(machine.lanes)
    silu = te.compute(a.shape, lambda *i: x(*i) * vector_math.sigmoid(x(*i)))
    check(run, silu, a * sigmoid(a), (x, a, layout), layout=layout, machine=machine)
    check(run, silu, a * sigmoid(a), (x, a, layout), machine=machine)


def merged(
    shape: Sequence[int], value: Callable[..., tirx.Expr], whole: Sequence[int] | None = None
) -> list[list[int]]:
    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(shape))]
    return merged_axes(value(*variables), variables, list(shape), list(whole or shape))


@pytest.mark.parametrize("shape", [(1, 3, 320, 320), (2, 5, 7, 11), (6, 4096)])
def test_axes_that_merge_are_one_address(shape: tuple[int, ...], target) -> None:
    """A remainder in the index of a lane would make a store of every single element."""
    x = te.placeholder(shape, "float32", name="x")
    zero = tirx.const(0, "float32")
    y = te.compute(shape, lambda *i: tirx.Cast("uint8", tirx.Select(x(*i) < zero, zero, x(*i))), name="y")
    definition = elementwise(y, PLAIN, [Source(x, PLAIN)], Machine(16, 32))
    lowered = _LOWER(tvm.IRModule({"kernel": plain_function(definition.function, "kernel", target)}))
    assert "%" not in str(lowered["kernel"].body)


def test_axes_that_are_walked_alike_merge() -> None:
    x = tirx.decl_buffer((2, 3, 4, 5), "float32")
    bias = tirx.decl_buffer((3,), "float32")
    read = tirx.BufferLoad
    assert merged((2, 3, 4, 5), lambda *i: read(x, [*i])) == [[0, 1, 2, 3]]
    assert merged((2, 3, 4, 5), lambda n, c, h, w: read(x, [n, c, h, w]) + read(bias, [c])) == [[0], [1], [2, 3]]
    # A slice is not contiguous, nor is what a larger tensor holds side by side with something else.
    assert merged((2, 3, 4, 4), lambda n, c, h, w: read(x, [n, c, h, w])) == [[0, 1, 2], [3]]
    assert merged((2, 3, 4, 5), lambda *i: read(x, [*i]), whole=(2, 6, 4, 5)) == [[0], [1, 2, 3]]
    assert merged((2, 3, 4, 5), lambda n, c, h, w: read(x, [n, c, h, w]) * tirx.Cast("float32", h)) == [
        [0, 1],
        [2],
        [3],
    ]
    assert merged((3, 2, 4, 5), lambda c, n, h, w: read(x, [n, c, h, w])) == [[0], [1], [2, 3]]
    assert merged((1, 3, 1, 1), lambda n, c, h, w: read(bias, [c])) == [[0, 1, 2, 3]]


@st.composite
def concatenations(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], int]:
    axis = draw(st.integers(0, 3))
    shape = [draw(st.integers(1, 5)) for _ in range(4)]
    shape[1] = draw(st.integers(1, 20))
    sizes = draw(st.lists(st.integers(1, 19), min_size=2, max_size=3))
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes], axis


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=concatenations(), source=st.sampled_from([PLAIN, BLOCKED]), result=st.sampled_from([PLAIN, BLOCKED]))
def test_parts_of_a_larger_tensor(case, source: Layout, result: Layout, run) -> None:
    """Every part leaves alone what the others write, in whatever order they come."""
    shapes, axis = case
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    expected = np.concatenate(parts, axis)
    offsets = np.cumsum([0, *(shape[axis] for shape in shapes)])
    joined = np.full(expected.shape, np.nan, np.float32)
    for part, offset in list(zip(parts, offsets, strict=False))[::-1]:
        x = tensor(*part.shape)
        output = te.compute(part.shape, lambda *i: x(*i) * 3.0)  # noqa: B023
        place = Part(expected.shape, axis, int(offset))
        definition = elementwise(output, result, [Source(x, source)], MACHINE, place)
        written = run(definition, in_memory(part, source), output=result.physical_shape(expected.shape))
        if result.block:
            written = from_blocks(written, expected.shape[1])
        inside = [slice(None)] * 4
        inside[axis] = slice(int(offset), int(offset) + part.shape[axis])
        alone = np.ones(expected.shape, bool)
        alone[tuple(inside)] = False
        assert np.isnan(written[alone]).all()
        joined[tuple(inside)] = written[tuple(inside)]
    assert_close(joined, expected * 3)
