"""Kernels that compute row by row: what shares a row, either direction of vectors, layouts, lengths, the ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close, from_blocks, onnx_node, to_blocks
from tvm import te, tirx

from lepton_compile.kernels.kernel import Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.row_plan import RowPlan, plan_rows, row_leaves
from lepton_compile.kernels.rows import rows
from lepton_compile.lowering.operators import OPERATORS, Operation
from lepton_compile.lowering.operators.pointwise import pointwise
from lepton_compile.lowering.operators.reduction import mean_over, reduce_axes

MACHINE = Machine(8, 16)
BLOCKED = Layout(8)
ANY_SHAPE = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tensor(*shape: int) -> te.Tensor:
    return te.placeholder(shape, "float32", name="x")


def apply(op_type: str, *inputs: te.Tensor, **attributes: object) -> te.Tensor:
    made = OPERATORS[op_type](Operation(op_type, op_type, attributes, 21, 1, (None,) * len(inputs)), *inputs)
    return made[0] if isinstance(made, tuple) else made


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def plan(output: te.Tensor) -> RowPlan:
    found = plan_rows(output, lambda _: False)
    assert isinstance(found, RowPlan), f"{found.op.name} would be a kernel of its own"
    return found


def compute(
    run,
    output: te.Tensor,
    operands: Sequence[tuple[te.Tensor, np.ndarray]],
    source: Layout = PLAIN,
    result: Layout = PLAIN,
    machine: Machine = MACHINE,
) -> np.ndarray:
    """Compute a tensor by one kernel; operands of its own rank lie in the layout `source`."""
    how = plan(output)
    values = {x.op: a for x, a in operands}
    shape = tuple(int(size) for size in output.shape)
    places = [Source(x, source if len(x.shape) == len(shape) else PLAIN) for x in row_leaves(how)]
    arrays = [to_blocks(values[s.tensor.op], s.layout.block) if s.layout.block else values[s.tensor.op] for s in places]
    actual = run(rows(how, result, places, machine), *arrays, output=result.physical_shape(shape))
    return from_blocks(actual, shape[1]) if result.block else actual.reshape(shape)


def check_softmax(run, a: np.ndarray, axis: int, **layouts) -> None:
    x = tensor(*a.shape)
    actual = compute(run, apply("Softmax", x, axis=axis), [(x, a)], **layouts)
    assert_close(actual, onnx_node("Softmax", a, axis=axis))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 31, 32, 33, 100, 5000])
def test_softmax_of_rows_of_any_length(length: int, run) -> None:
    check_softmax(run, random(5, length) * 3, -1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("source", [PLAIN, BLOCKED], ids=str)
@pytest.mark.parametrize("result", [PLAIN, BLOCKED], ids=str)
def test_softmax_along_any_axis(axis: int, source: Layout, result: Layout, run) -> None:
    check_softmax(run, random(2, 19, 5, 11), axis, source=source, result=result)


def test_instruction_sets(machine: Machine, run) -> None:
    blocked = Layout(machine.lanes)
    check_softmax(run, random(3, 70), 1, machine=machine)
    check_softmax(run, random(1, 21, 3, 7), 1, machine=machine, source=blocked, result=blocked)
    check_softmax(run, random(2, 5, 70), 1, machine=machine)


@ANY_SHAPE
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), data=st.data())
def test_softmax_of_any_shape(shape: tuple[int, ...], data: st.DataObject, run) -> None:
    check_softmax(run, random(*shape), data.draw(st.integers(0, len(shape) - 1)))


@pytest.mark.parametrize("axis", [0, 1])
def test_infinities_and_nan_stay_in_their_row(axis: int, run) -> None:
    a = random(9, 40)
    a[1] = -np.inf
    a[2, 3], a[3, 4], a[4, 5], a[5] = np.nan, np.inf, -np.inf, 1e30
    a[6, 1], a[6, 2] = np.nan, np.inf
    check_softmax(run, np.ascontiguousarray(a if axis else a.T), axis)


@pytest.mark.parametrize("source", [PLAIN, BLOCKED], ids=str)
@pytest.mark.parametrize("result", [PLAIN, BLOCKED], ids=str)
@pytest.mark.parametrize("shape", [(2, 19, 5, 7), (1, 8, 20, 20), (1, 3, 1, 1), (1, 5, 1, 200)], ids=str)
def test_instance_normalization(shape: tuple[int, ...], source: Layout, result: Layout, run) -> None:
    """A row per channel: of a blocked tensor, each lane is a row of its own, and the padding lanes hold NaN."""
    a, scale, bias = random(*shape) + 3, random(shape[1]), random(shape[1])
    x, s, b = tensor(*shape), tensor(shape[1]), tensor(shape[1])
    actual = compute(run, apply("InstanceNormalization", x, s, b), [(x, a), (s, scale), (b, bias)], source, result)
    wide = a.astype(np.float64)
    mean, variance = wide.mean((2, 3), keepdims=True), wide.var((2, 3), keepdims=True)
    per_channel = (1, -1, 1, 1)
    normalised = (wide - mean) / np.sqrt(variance + 1e-5)
    assert_close(actual, (normalised * scale.reshape(per_channel) + bias.reshape(per_channel)).astype(np.float32))


@ANY_SHAPE
@given(shape=st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple), data=st.data())
def test_layer_normalization(shape: tuple[int, ...], data: st.DataObject, run) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    a, scale, bias = random(*shape), random(*shape[axis:]), random(*shape[axis:])
    x, s, b = tensor(*shape), tensor(*shape[axis:]), tensor(*shape[axis:])
    actual = compute(run, apply("LayerNormalization", x, s, b, axis=axis), [(x, a), (s, scale), (b, bias)])
    assert_close(actual, onnx_node("LayerNormalization", a, scale, bias, axis=axis))


def test_what_stands_before_and_behind(run) -> None:
    """gelu(a) + b is needed three times: it is computed once, and kept where the result will be."""
    shape = (6, 70)
    (x, a), (y, b) = (tensor(*shape), random(*shape)), (tensor(*shape), random(*shape))
    scale, offset = (tensor(70), random(70)), (tensor(70), random(70))
    total = apply("Add", apply("Gelu", x), y)
    normalised = apply("LayerNormalization", total, scale[0], offset[0])
    output = apply("Add", apply("Relu", normalised), x)
    kept = plan(output).kept
    assert kept is not None
    assert kept.op.name == total.op.name
    before = onnx_node("Gelu", a) + b
    expected = np.maximum(onnx_node("LayerNormalization", before, scale[1], offset[1]), 0) + a
    assert_close(compute(run, output, [(x, a), (y, b), scale, offset]), expected)


def test_what_is_cheap_is_not_kept() -> None:
    x, s = tensor(4, 70), tensor(70)
    assert plan(apply("LayerNormalization", x, s, s)).kept is None
    assert plan(apply("Softmax", x)).kept is not None


def test_a_mask_of_another_shape(run) -> None:
    a, mask = random(2, 3, 10, 20), np.where(random(2, 1, 1, 20) > 0, 0, -1e4).astype(np.float32)
    x, m = tensor(*a.shape), tensor(*mask.shape)
    actual = compute(run, apply("Softmax", apply("Add", x, m), axis=-1), [(x, a), (m, mask)])
    assert_close(actual, onnx_node("Softmax", a + mask, axis=-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_reduction_of_a_normalised_tensor(axis: int, run) -> None:
    """The sum over a row of softmax's squares: one value a row, by three reductions of it."""
    a, x = random(4, 9, 30), tensor(4, 9, 30)
    squares = pointwise(lambda v: v * v, apply("Softmax", x, axis=axis))
    output = reduce_axes(squares, [axis], keepdims=False)
    assert len(plan(output).stages) == 3
    assert_close(compute(run, output, [(x, a)]), (onnx_node("Softmax", a, axis=axis) ** 2).sum(axis))


def test_reductions_that_do_not_share_rows_are_refused() -> None:
    x = tensor(4, 70)
    whole, row = mean_over(x, [0, 1]), mean_over(x, [1])
    refused = plan_rows(pointwise(lambda v, w, r: v * w + r, x, whole, row), lambda _: False)
    assert isinstance(refused, te.Tensor)
    assert "sum" in refused.op.name
    shifted = te.compute((4, 69), lambda i, j: x(i, j) * row(i, 0) + row(3 - i, 0))
    assert isinstance(plan_rows(shifted, lambda _: False), te.Tensor)


@pytest.mark.parametrize("along", [True, False], ids=["along", "across"])
def test_long_rows_keep_their_precision(along: bool, run) -> None:
    """A mean of 200,000 equal numbers, and a variance of zero; one running sum would be off by 1e-3."""
    shape = (2, 200_000) if along else (200_000, 2)
    a, x = np.full(shape, 1.1, np.float32), tensor(*shape)
    axis = 1 if along else 0
    actual = compute(run, pointwise(lambda v, m: v / m, x, mean_over(x, [axis])), [(x, a)])
    np.testing.assert_allclose(actual, 1, rtol=2e-5)


def test_an_empty_row_sums_to_nothing(run) -> None:
    x, k = tensor(3, 1), te.reduce_axis((0, 0))
    output = te.compute((3,), lambda i: te.sum(x(i, k), axis=k))
    np.testing.assert_array_equal(compute(run, output, [(x, random(3, 1))]), np.zeros(3, np.float32))


def test_truth_values_choose(run) -> None:
    """A mask of truth values that has a row of its own for each row, one of them with nothing left."""
    a, mask = random(6, 70), random(6, 70) > 0
    mask[3] = False
    x, m = tensor(*a.shape), te.placeholder(mask.shape, "bool", name="m")
    least = te.compute((1,), lambda _: tirx.const(-np.inf, "float32"))
    actual = compute(run, apply("Softmax", apply("Where", m, x, least)), [(x, a), (m, mask)])
    assert_close(actual, onnx_node("Softmax", np.where(mask, a, -np.float32(np.inf))))
