"""Convolutions by minimal filtering, against onnxruntime's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernels.layouts import from_blocks, onnx_node, to_blocks
from tvm import IRModule, te, tirx

from lepton_compile.codegen.kernels import _LOWER, LOCAL_BYTES, _local_bytes, plain_function
from lepton_compile.kernels import winograd
from lepton_compile.kernels.kernel import Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.window import ConvolutionShape, Window
from lepton_compile.kernels.winograd_plan import (
    Winograd,
    cycles,
    pack_weights,
    plans,
    transformed_shape,
)

Run = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Case:
    """A Conv node of dilations of one: `inputs` and `outputs` are channels of one group."""

    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1

    def windows(self) -> list[Window]:
        rank = len(self.size)
        pads, strides = self.pads or (0,) * (2 * rank), self.strides or (1,) * rank
        positions = [
            (size + pads[axis] + pads[axis + rank] - kernel) // strides[axis] + 1
            for axis, (size, kernel) in enumerate(zip(self.size, self.kernel, strict=True))
        ]
        facts = zip(self.size, positions, self.kernel, strides, pads[:rank], strict=True)
        return [Window(size, count, kernel, stride, 1, pad) for size, count, kernel, stride, pad in facts]

    def plans(self, machine: Machine) -> list[Winograd]:
        shape = ConvolutionShape(self.batch, self.inputs, self.outputs, self.groups, tuple(self.windows()))
        return list(plans(shape, machine))


def check(case: Case, shapes: Winograd, machine: Machine, run: Run) -> None:
    rng = np.random.default_rng(0)
    channels, outputs, rank = case.inputs * case.groups, case.outputs * case.groups, len(case.size)
    x = rng.standard_normal((case.batch, channels, *case.size), dtype=np.float32)
    scale = 1 / math.sqrt(case.inputs * math.prod(case.kernel))
    w = scale * rng.standard_normal((outputs, case.inputs, *case.kernel), dtype=np.float32)
    bias = rng.standard_normal((1, outputs) + (1,) * rank, dtype=np.float32)
    pads, strides = list(case.pads) or [0] * (2 * rank), list(case.strides) or [1] * rank
    expected = onnx_node("Conv", x, w, pads=pads, strides=strides, group=case.groups)
    residual = rng.standard_normal(expected.shape, dtype=np.float32)
    expected = np.maximum(expected + bias + residual, 0)

    blocked = Layout(machine.lanes)
    image = te.placeholder(x.shape, "float32", name="image")
    anchor = te.placeholder(expected.shape, "float32", name="anchor")
    biases = te.placeholder(bias.shape, "float32", name="biases")
    added = te.placeholder(expected.shape, "float32", name="added")
    result = te.compute(
        expected.shape,
        lambda *i: tirx.max(anchor(*i) + biases(0, i[1], *[0] * rank) + added(*i), tirx.const(0, "float32")),
        name="result",
    )
    source, given = Source(image, blocked), to_blocks(x, machine.lanes)
    if shapes.staged:
        given = run(winograd.input_transform(shapes, source, machine), given, output=transformed_shape(shapes, machine))
        source = Source(te.placeholder(given.shape, "float32", name="transformed"), PLAIN)
    actual = run(
        winograd.convolution(
            shapes,
            source,
            Epilogue(result, anchor, (Source(biases, blocked), Source(added, blocked)), blocked),
            machine,
        ),
        given,
        pack_weights(w, shapes, machine),
        to_blocks(bias, machine.lanes),
        to_blocks(residual, machine.lanes),
        output=blocked.physical_shape(expected.shape),
    )
    assert np.linalg.norm(from_blocks(actual, outputs) - expected) <= 1e-5 * np.linalg.norm(expected)


SHAPES = {
    "square": Case(32, 32, (14, 14), (3, 3), (1, 1, 1, 1)),
    "tails everywhere": Case(19, 21, (7, 9), (3, 3), (1, 0, 2, 1)),
    "no padding": Case(8, 8, (10, 10), (3, 3)),
    "smaller than a tile": Case(8, 8, (3, 3), (3, 3), (1, 1, 1, 1)),
    "few channels": Case(3, 5, (12, 11), (3, 3), (1, 1, 1, 1)),
    "five taps": Case(16, 24, (9, 13), (5, 5), (2, 2, 2, 2)),
    "two taps": Case(8, 16, (9, 9), (3, 5), (1, 2, 1, 2)),
    "one axis": Case(16, 16, (9, 17), (1, 3), (0, 1, 0, 1)),
    "the other axis": Case(16, 16, (17, 9), (3, 1), (1, 0, 1, 0)),
    "signal": Case(16, 24, (50,), (5,), (2, 2)),
    "volume": Case(8, 8, (5, 6, 7), (3, 3, 3), (1, 1, 1, 1, 1, 1)),
    "groups": Case(16, 32, (9, 9), (3, 3), (1, 1, 1, 1), groups=2),
    "batch": Case(8, 16, (6, 10), (3, 3), (1, 1, 1, 1), batch=3),
    "strided": Case(19, 16, (15, 12), (3, 3), (1, 1, 1, 1), (2, 2)),
    "strided seven taps": Case(3, 8, (23, 19), (7, 7), (3, 3, 3, 3), (2, 2)),
    "strided unevenly": Case(8, 8, (9, 13), (5, 3), (2, 0, 1, 2), (3, 1)),
    "strided groups": Case(8, 16, (9, 9), (5, 5), (0, 0, 0, 0), (2, 2), groups=2, batch=2),
    "wide padding": Case(8, 8, (5, 5), (3, 3), (4, 4, 4, 4)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, run: Run) -> None:
    machine = Machine(8, 16, threads=2)
    found = SHAPES[name].plans(machine)
    assert {shapes.staged for shapes in found} == {False, True}
    for shapes in found:
        check(SHAPES[name], shapes, machine, run)


@pytest.mark.parametrize("name", ["tails everywhere", "groups"])
def test_instruction_sets(name: str, machine: Machine, run: Run) -> None:
    for shapes in SHAPES[name].plans(machine):
        check(SHAPES[name], shapes, machine, run)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(1, 2))
    kernel = tuple(draw(st.sampled_from((1, 3, 5))) for _ in range(rank))
    assume(set(kernel) != {1})
    strides = tuple(draw(st.integers(1, min(k, 3))) for k in kernel)
    pads = tuple(draw(st.integers(0, 4)) for _ in range(2 * rank))
    return Case(
        inputs=draw(st.integers(1, 20)),
        outputs=draw(st.integers(1, 20)),
        size=tuple(max(1, k - pads[a] - pads[a + rank]) + draw(st.integers(0, 14)) for a, k in enumerate(kernel)),
        kernel=kernel,
        pads=pads,
        strides=strides,
        batch=draw(st.integers(1, 2)),
    )


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), choice=st.integers(0, 7), columns=st.integers(1, 4))
def test_any_shape_in_chunks_of_any_size(case: Case, choice: int, columns: int, run: Run) -> None:
    machine = Machine(8, 16)
    found = case.plans(machine)
    assume(found)
    shapes = found[choice % len(found)]
    tile = replace(shapes.tile, columns=columns)
    check(case, replace(shapes, tile=tile, chunk=columns * (1 + choice)), machine, run)


@pytest.mark.parametrize(
    "windows",
    [
        [Window(9, 9, 1), Window(9, 9, 1)],
        [Window(9, 3, 3, stride=3), Window(9, 3, 3, stride=3)],
        [Window(9, 9, 3, dilation=2, pad=2), Window(9, 9, 3, dilation=2, pad=2)],
        [Window(19, 19, 9, pad=4), Window(19, 19, 9, pad=4)],
    ],
    ids=["pixels", "no overlap", "dilated", "nine taps"],
)
def test_what_it_does_not_take(windows: list[Window]) -> None:
    assert not list(plans(ConvolutionShape(1, 16, 16, 1, tuple(windows)), Machine(8, 16)))


def test_groups_have_to_fill_vectors() -> None:
    assert not Case(12, 16, (9, 9), (3, 3), groups=2).plans(Machine(8, 16))


def test_weights_that_do_not_fit_the_cache_want_a_staged_plan() -> None:
    machine = Machine(16, 32, l2_bytes=1 << 20)

    def best(case: Case) -> Winograd:
        return min(case.plans(machine), key=lambda shapes: cycles(shapes, machine))

    assert best(Case(512, 512, (14, 14), (3, 3), (1, 1, 1, 1))).staged
    assert not best(Case(16, 16, (160, 160), (3, 3), (1, 1, 1, 1))).staged


@pytest.mark.parametrize(
    "case",
    [
        Case(128, 128, (20, 20, 20), (3, 3, 3), (1, 1, 1, 1, 1, 1)),
        Case(32, 32, (20, 20, 20), (3, 3, 3), (1, 1, 1, 1, 1, 1)),
        Case(256, 256, (28, 28), (5, 5), (2, 2, 2, 2)),
    ],
    ids=["wide volume", "volume", "image"],
)
def test_local_buffers_fit_the_stack_whatever_the_cache(case: Case, target) -> None:
    machine = Machine(16, 32, l2_bytes=4 << 20)
    for plan in case.plans(machine):
        shape = (1, case.inputs, *case.size)
        stored = transformed_shape(plan, machine) if plan.staged else shape
        source = Source(te.placeholder(stored, "float32", name="source"), PLAIN if plan.staged else Layout(16))
        result = te.placeholder((1, case.outputs, *case.size), "float32", name="result")
        definition = winograd.convolution(plan, source, Epilogue(result, result, (), Layout(16)), machine)
        with target:
            module = _LOWER(IRModule({"f": plain_function(definition.function, "f", target)}))
        assert _local_bytes(module["f"].body) <= LOCAL_BYTES
