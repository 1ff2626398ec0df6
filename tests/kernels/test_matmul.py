"""Matrix products, against numpy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close
from tvm import te, tirx

from lepton_compile.kernels.elementwise import elementwise
from lepton_compile.kernels.kernel import Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.matmul import matmul, matrix_product_of, pack_right, packed_right


def check(
    left: tuple[int, ...],
    right: tuple[int, ...],
    machine: Machine,
    run,
    *,
    transposed: bool = False,
    operations: int = 1,
) -> None:
    """activation(A @ B + bias), A and B of these shapes; `operations` is about how costly the activation is."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal(left, dtype=np.float32)
    b = rng.standard_normal(right, dtype=np.float32)
    bias = rng.standard_normal(right[-1], dtype=np.float32)
    expected = (a.T if transposed else a) @ b + bias
    for _ in range(operations):
        expected = np.maximum(expected * 0.75, -1)

    flat = len(right) == 2
    rows = ((a.T.shape if transposed else left)[:-1]) if flat else left[-2:-1]
    batch = () if flat else expected.shape[:-2]
    shapes = matrix_product_of(batch, rows, right[-2], right[-1], machine)
    anchor = te.placeholder(expected.shape, "float32", name="anchor")
    biases = te.placeholder(bias.shape, "float32", name="biases")

    def activation(*i: tirx.Expr) -> tirx.Expr:
        value = anchor(*i) + biases(i[-1])
        for _ in range(operations):
            value = tirx.max(value * 0.75, tirx.const(-1, "float32"))
        return value

    epilogue = Epilogue(te.compute(expected.shape, activation), anchor, (Source(biases, PLAIN),), PLAIN)
    source = Source(te.placeholder(left, "float32", name="left"), PLAIN)
    definition = matmul(shapes, source.tensor, source, transposed, right[:-2], epilogue, machine)
    actual = run(definition, a, pack_right(b, shapes, machine), bias, output=expected.shape)
    assert_close(actual, expected)


SHAPES = {
    "square": ((32, 48), (48, 64)),
    "tails": ((33, 17), (17, 45)),
    "a vector": ((1, 200), (200, 100)),
    "one column": ((20, 9), (9, 1)),
    "one number": ((1, 5), (5, 1)),
    "inner of one": ((7, 1), (1, 19)),
    "rows on two axes": ((2, 13, 20), (20, 30)),
    "batches": ((2, 3, 9, 17), (2, 3, 17, 45)),
    "left broadcast": ((1, 5, 7), (4, 7, 9)),
    "left without batch": ((5, 7), (3, 4, 7, 9)),
    "right broadcast": ((2, 3, 5, 7), (3, 7, 9)),
    "both broadcast": ((2, 1, 5, 7), (1, 3, 7, 9)),
}


@pytest.mark.parametrize(("left", "right"), SHAPES.values(), ids=SHAPES.keys())
def test_shapes(left: tuple[int, ...], right: tuple[int, ...], run) -> None:
    check(left, right, Machine(8, 16), run)


@pytest.mark.parametrize("name", ["tails", "batches", "a vector"])
def test_instruction_sets(name: str, machine: Machine, run) -> None:
    check(*SHAPES[name], machine, run)


@pytest.mark.parametrize("name", ["square", "tails", "both broadcast"])
def test_costly_epilogues_come_after_the_tile_is_stored(name: str, run) -> None:
    check(*SHAPES[name], Machine(8, 16), run, operations=8)


@pytest.mark.parametrize("columns", [1, 45, 64])
def test_transposed_left(columns: int, run) -> None:
    check((17, 33), (17, columns), Machine(8, 16), run, transposed=True)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 40),
    inner=st.integers(1, 20),
    columns=st.integers(1, 70),
    machine=st.sampled_from([Machine(4, 8), Machine(8, 16), Machine(16, 32)]),
    operations=st.sampled_from([1, 8]),
)
def test_any_shape(rows: int, inner: int, columns: int, machine: Machine, operations: int, run) -> None:
    check((rows, inner), (inner, columns), machine, run, operations=operations)


@pytest.mark.parametrize("shape", [(6, 45), (2, 3, 6, 48)])
def test_right_operands_that_are_packed_at_run_time_are_packed_alike(shape: tuple[int, ...], run) -> None:
    machine = Machine(8, 16)
    shapes = matrix_product_of(shape[:-2], (9,), shape[-2], shape[-1], machine)
    b = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    right = te.placeholder(shape, "float32", name="right")
    packing = elementwise(packed_right(right, shapes, machine), PLAIN, [Source(right, PLAIN)], machine)
    packed = pack_right(b, shapes, machine)
    np.testing.assert_array_equal(run(packing, b, output=packed.shape), packed)


def test_every_range_of_blocks_is_its_share_of_the_whole(run_ranges) -> None:
    machine = Machine(4, 16)
    shapes = matrix_product_of((3,), (21,), 10, 50, machine)
    left, anchor = te.placeholder((3, 21, 10), "float32"), te.placeholder((3, 21, 50), "float32")
    definition = matmul(shapes, left, Source(left, PLAIN), False, (3,), Epilogue(anchor, anchor, (), PLAIN), machine)
    assert definition.operations == math.prod((3, 21, 50)) * 20
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((3, 21, 10), (3, 10, 50)))
    arrays = [a, pack_right(b, shapes, machine)]
    output = [((3, 21, 50), "float32")]
    (whole,) = run_ranges(definition, arrays, output, [(0, definition.blocks)])
    singly = [(block, block + 1) for block in range(definition.blocks)]
    rng.shuffle(singly)
    (parts,) = run_ranges(definition, arrays, output, singly)
    np.testing.assert_array_equal(parts, whole)
