"""Reductions along any axes, in either layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close, from_blocks, to_blocks
from tvm import te, tirx

from lepton_compile.kernels.kernel import Definition, Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.row_plan import RowPlan, plan_rows
from lepton_compile.kernels.rows import rows

MACHINE = Machine(8, 16)
SUM = (te.sum, np.sum)
MAXIMUM = (te.max, np.max)


def reduction(output: te.Tensor, layout: Layout, sources: list[Source], machine: Machine) -> Definition:
    """The kernel of a reduction alone."""
    plan = plan_rows(output, lambda _: False)
    assert isinstance(plan, RowPlan)
    return rows(plan, layout, sources, machine)


def check(
    run,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    of: tuple[Callable[..., tirx.Expr], Callable[..., np.ndarray]] = SUM,
    source: Layout = PLAIN,
    result: Layout = PLAIN,
    machine: Machine = MACHINE,
) -> None:
    """The reduction of 2x over some axes, which stay as axes of size one."""
    ours, numpys = of
    a, x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32), te.placeholder(shape, "float32", name="x")
    expected = numpys(a.astype(np.float64) * 2, axis=axes, keepdims=True).astype(np.float32)
    reduced = {axis: te.reduce_axis((0, shape[axis])) for axis in axes}
    output = te.compute(
        expected.shape,
        lambda *i: ours(x(*(reduced.get(axis, index) for axis, index in enumerate(i))) * 2.0, axis=[*reduced.values()]),
    )
    definition = reduction(output, result, [Source(x, source)], machine)
    image = to_blocks(a, source.block) if source.block else a
    actual = run(definition, image, output=result.physical_shape(expected.shape))
    assert_close(from_blocks(actual, expected.shape[1]) if result.block else actual, expected)


@pytest.mark.parametrize("of", [SUM, MAXIMUM], ids=["sum", "max"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 40, 133), (2,)),
        ((3, 40, 133), (1,)),
        ((3, 40, 133), (0, 1)),
        ((3, 40, 133), (0, 2)),
        ((5, 3), (1,)),
        ((1, 1000), (1,)),
        ((2, 3, 4, 5), (0, 1, 2, 3)),
        ((7,), (0,)),
        ((1, 1), (0,)),
    ],
    ids=str,
)
def test_axes(shape: tuple[int, ...], axes: tuple[int, ...], of, run) -> None:
    check(run, shape, axes, of)


@pytest.mark.parametrize("channels", [16, 19])
@pytest.mark.parametrize("axes", [(2, 3), (3,), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("layouts", [(8, 8), (8, 0), (0, 8)], ids=str)
def test_layouts(layouts: tuple[int, int], axes: tuple[int, ...], channels: int, run) -> None:
    check(run, (2, channels, 6, 11), axes, SUM, Layout(layouts[0]), Layout(layouts[1]))


def test_instruction_sets(machine: Machine, run) -> None:
    layout = Layout(machine.lanes)
    check(run, (1, 21, 7, 9), (2, 3), SUM, layout, layout, machine)
    check(run, (3, 210), (1,), SUM, PLAIN, PLAIN, machine)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
def test_any_shape(shape: tuple[int, ...], data: st.DataObject, run) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    check(run, shape, tuple(axes))


def test_types(run) -> None:
    """int64 and bool reduce exactly."""
    a = np.random.default_rng(0).integers(-(2**40), 2**40, (5, 77))
    x, k = te.placeholder(a.shape, "int64", name="x"), te.reduce_axis((0, 77))
    definition = reduction(
        te.compute((5,), lambda i: te.sum(x(i, k), axis=k)), PLAIN, [Source(x, PLAIN)], Machine(8, 16)
    )
    np.testing.assert_array_equal(run(definition, a, output=(5,), dtype="int64"), a.sum(1))


def test_long_sums_keep_their_precision(run) -> None:
    """Partial sums in lanes and chains lose a fortieth of what one running sum would, 1e-2."""
    a = np.full((1, 1_000_000), 0.1, np.float32)
    x, k = te.placeholder(a.shape, "float32", name="x"), te.reduce_axis((0, a.shape[1]))
    definition = reduction(
        te.compute((1,), lambda i: te.sum(x(i, k), axis=k)), PLAIN, [Source(x, PLAIN)], Machine(8, 16)
    )
    assert run(definition, a, output=(1,))[0] == pytest.approx(100_000, rel=1e-3)


def test_a_flat_picture_does_not_drift(run) -> None:
    """25600 additions of one number to one running sum would be off by 1e-4."""
    shape = (1, 16, 160, 160)
    x, (h, w) = te.placeholder(shape, "float32", name="x"), (te.reduce_axis((0, 160)), te.reduce_axis((0, 160)))
    output = te.compute((1, 16, 1, 1), lambda n, c, _i, _j: te.sum(x(n, c, h, w), axis=[h, w]))
    levels = np.linspace(1.1, 2.9, 16, dtype=np.float32).reshape(1, 16, 1, 1)
    definition = reduction(output, Layout(8), [Source(x, Layout(8))], MACHINE)
    actual = run(definition, to_blocks(np.broadcast_to(levels, shape), 8), output=(1, 2, 1, 1, 8))
    np.testing.assert_allclose(from_blocks(actual, 16), levels.astype(np.float64) * 25600, rtol=5e-6)
