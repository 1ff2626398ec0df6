"""Convolutions of every shape, against onnxruntime's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close, from_blocks, onnx_node, to_blocks
from tvm import te, tirx

from lepton_compile.kernels.convolution import convolution
from lepton_compile.kernels.convolution_plan import (
    convolution_of,
    convolutions_of,
    cycles,
    pack_weights,
    packed_shape,
    packed_weights,
    ways_abreast,
)
from lepton_compile.kernels.elementwise import elementwise
from lepton_compile.kernels.kernel import Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.window import ConvolutionShape, Window


@dataclass(frozen=True)
class Case:
    """A Conv node: `inputs` and `outputs` are channels of one group, `pads` in front and behind."""

    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1
    plain_input: bool = False

    def attribute(self, name: str, default: int) -> list[int]:
        return list(getattr(self, name)) or [default] * len(self.size) * (2 if name == "pads" else 1)


Lanes = Callable[..., tirx.Expr]


def light(value: tirx.Expr, bias: tirx.Expr, residual: tirx.Expr) -> tirx.Expr:
    return tirx.max(value + bias + residual, tirx.const(0, "float32"))


def numpy_light(value: np.ndarray, bias: np.ndarray, residual: np.ndarray) -> np.ndarray:
    return np.maximum(value + bias + residual, 0)


def heavy(value: tirx.Expr, bias: tirx.Expr, residual: tirx.Expr) -> tirx.Expr:
    """More operations than are unrolled over the registers."""
    biased = value + bias
    cubed = biased * biased * biased
    return tirx.Select(cubed > 1, biased * 0.5 + cubed * 0.125, cubed - biased * 0.25) + residual * 2.0 - biased / 3.0


def numpy_heavy(value: np.ndarray, bias: np.ndarray, residual: np.ndarray) -> np.ndarray:
    biased = value + bias
    cubed = biased**3
    return np.where(cubed > 1, biased * 0.5 + cubed * 0.125, cubed - biased * 0.25) + residual * 2 - biased / 3


def check(
    case: Case, machine: Machine, run: Callable[..., np.ndarray], epilogue: Lanes = light, abreast: int = 1
) -> None:
    rng = np.random.default_rng(0)
    channels, outputs, rank = case.inputs * case.groups, case.outputs * case.groups, len(case.size)
    strides, dilations, pads = case.attribute("strides", 1), case.attribute("dilations", 1), case.attribute("pads", 0)
    x = rng.standard_normal((case.batch, channels, *case.size), dtype=np.float32)
    scale = 1 / math.sqrt(case.inputs * math.prod(case.kernel))
    w = scale * rng.standard_normal((outputs, case.inputs, *case.kernel), dtype=np.float32)
    bias = rng.standard_normal((1, outputs) + (1,) * rank, dtype=np.float32)
    expected = onnx_node("Conv", x, w, strides=strides, dilations=dilations, pads=pads, group=case.groups)
    residual = rng.standard_normal(expected.shape, dtype=np.float32)
    in_numpy = numpy_light if epilogue is light else numpy_heavy
    expected = in_numpy(expected, bias, residual)

    windows = [
        Window(size, positions, kernel, stride, dilation, pad)
        for size, positions, kernel, stride, dilation, pad in zip(
            case.size, expected.shape[2:], case.kernel, strides, dilations, pads[:rank], strict=True
        )
    ]
    of = ConvolutionShape(case.batch, case.inputs, case.outputs, case.groups, tuple(windows))
    assert abreast in ways_abreast(of, machine)
    shapes = next(convolutions_of(of, machine, abreast=abreast))
    assert abreast > 1 or shapes == convolution_of(of, machine)
    blocked = Layout(machine.lanes)
    image = te.placeholder(x.shape, "float32", name="image")
    anchor = te.placeholder(expected.shape, "float32", name="anchor")
    biases = te.placeholder(bias.shape, "float32", name="biases")
    added = te.placeholder(expected.shape, "float32", name="added")
    result = te.compute(
        expected.shape, lambda *i: epilogue(anchor(*i), biases(0, i[1], *[0] * rank), added(*i)), name="result"
    )
    definition = convolution(
        shapes,
        Source(image, PLAIN if case.plain_input else blocked),
        Epilogue(result, anchor, (Source(biases, blocked), Source(added, blocked)), blocked),
        machine,
    )
    actual = run(
        definition,
        x if case.plain_input else to_blocks(x, machine.lanes),
        pack_weights(w, shapes, machine),
        to_blocks(bias, machine.lanes),
        to_blocks(residual, machine.lanes),
        output=blocked.physical_shape(expected.shape),
    )
    assert_close(from_blocks(actual, outputs), expected)


SHAPES = {
    "square": Case(32, 32, (14, 14), (3, 3), pads=(1, 1, 1, 1)),
    "pixels": Case(40, 48, (7, 7), (1, 1)),
    "one pixel": Case(64, 20, (1, 1), (1, 1)),
    "strided pixels": Case(24, 24, (9, 10), (1, 1), (2, 2)),
    "padded pixels": Case(17, 16, (5, 5), (1, 1), pads=(1, 0, 2, 1)),
    "few channels": Case(3, 20, (19, 23), (7, 7), (2, 2), pads=(3, 3, 3, 3), plain_input=True),
    "one channel": Case(1, 5, (12, 9), (3, 3), plain_input=True),
    "few blocked channels": Case(3, 7, (9, 9), (3, 3), pads=(1, 1, 1, 1)),
    "tails": Case(33, 37, (9, 5), (3, 5), (1, 2), (2, 1), (2, 2, 2, 2), batch=2),
    "asymmetric pads": Case(16, 16, (8, 9), (3, 3), (2, 1), pads=(0, 2, 1, 0)),
    "pads wider than the kernel": Case(8, 8, (4, 4), (2, 2), pads=(3, 3, 3, 3)),
    "dilated past the input": Case(8, 9, (5, 5), (3, 3), dilations=(4, 4), pads=(4, 4, 4, 4)),
    "strided past the kernel": Case(16, 16, (13, 13), (2, 2), (3, 3)),
    "groups of blocks": Case(16, 32, (7, 9), (3, 3), pads=(1, 1, 1, 1), groups=2),
    "groups inside blocks": Case(8, 20, (7, 9), (3, 3), pads=(1, 1, 1, 1), groups=3),
    "groups across blocks": Case(6, 34, (7, 9), (1, 1), groups=4, batch=2),
    "groups across blocks, strided": Case(5, 19, (9, 8), (3, 2), (2, 2), pads=(1, 0, 1, 1), groups=3),
    "groups of half blocks": Case(4, 8, (6, 7), (1, 1), groups=6),
    "tiny groups": Case(1, 3, (6, 7), (3, 3), pads=(1, 1, 1, 1), groups=5, batch=2),
    "line": Case(16, 20, (50,), (3,), pads=(1, 1)),
    "volume": Case(9, 20, (5, 6, 7), (3, 2, 3), (1, 2, 1), pads=(1, 0, 1, 1, 1, 1)),
    "many outputs": Case(8, 200, (3, 40), (1, 3), pads=(0, 1, 0, 1)),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(case: Case, run) -> None:
    check(case, Machine(8, 16), run)


@pytest.mark.parametrize(
    "name",
    ["tails", "pixels", "groups inside blocks", "groups across blocks", "groups of half blocks", "few channels"],
)
def test_instruction_sets(name: str, machine: Machine, run) -> None:
    check(SHAPES[name], machine, run)


@pytest.mark.parametrize("name", ["tails", "pixels", "groups inside blocks", "groups across blocks", "line"])
def test_costly_epilogues_come_after_the_tile_is_stored(name: str, run) -> None:
    check(SHAPES[name], Machine(16, 32), run, heavy)


ABREAST = {
    "whole rows": (Case(3, 6, (9, 12), (5, 5), pads=(2, 2, 2, 2), plain_input=True), 2),
    "a pixel past the row": (Case(20, 4, (6, 11), (3, 3), pads=(1, 1, 1, 1), batch=2), 4),
    "one channel": (Case(5, 1, (6, 37), (3, 3)), 16),
    "longer than a tile": (Case(2, 3, (3, 150), (3, 5), pads=(0, 2, 2, 0), plain_input=True), 4),
    "strided": (Case(3, 8, (15, 17), (3, 3), (2, 2), pads=(1, 1, 1, 1), plain_input=True), 2),
    "one row": (Case(4, 4, (50,), (4,), (3,), pads=(3, 2)), 4),
    "a column": (Case(4, 4, (21, 1), (3, 1), pads=(1, 0, 1, 0)), 4),
}


@pytest.mark.parametrize("epilogue", [light, heavy])
@pytest.mark.parametrize(("case", "abreast"), ABREAST.values(), ids=ABREAST.keys())
def test_pixels_that_share_a_vector(case: Case, abreast: int, epilogue: Lanes, run) -> None:
    check(case, Machine(16, 32), run, epilogue, abreast)


def test_pixels_share_a_vector_where_that_takes_fewer_steps() -> None:
    machine = Machine(16, 32)
    row = Window(64, 64, 3, pad=1)
    assert ways_abreast(ConvolutionShape(1, 16, 3, 1, (row, row)), machine) == [1, 2, 4]
    assert ways_abreast(ConvolutionShape(1, 16, 9, 1, (row, row)), machine) == [1]
    assert ways_abreast(ConvolutionShape(1, 16, 3, 2, (row, row)), machine) == [1]
    assert ways_abreast(ConvolutionShape(1, 16, 3, 1, (row, Window(30, 30, 1))), machine) == [1]
    assert ways_abreast(ConvolutionShape(1, 16, 3, 1, (row, Window(30, 26, 3, dilation=2))), machine) == [1]
    assert ways_abreast(ConvolutionShape(1, 16, 3, 1, (row, Window(5, 3, 3))), machine) == [1, 2]
    shape = ConvolutionShape(1, 16, 3, 1, (row, row))
    alone, together = (next(convolutions_of(shape, machine, abreast=abreast)) for abreast in (1, 4))
    assert cycles(together, machine) < 0.6 * cycles(alone, machine)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(1, 2))

    def per_axis(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    kernel, dilations, pads = per_axis(1, 4), per_axis(1, 2), per_axis(0, 3, 2 * rank)
    spans = [dilation * (k - 1) + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    size = tuple(
        max(1, span - pads[axis] - pads[rank + axis]) + draw(st.integers(0, 12)) for axis, span in enumerate(spans)
    )
    return Case(
        inputs=draw(st.integers(1, 20)),
        outputs=draw(st.integers(1, 20)),
        size=size,
        kernel=kernel,
        strides=per_axis(1, 3),
        dilations=dilations,
        pads=pads,
        groups=draw(st.sampled_from((1, 1, 2, 3, 5))),
        batch=draw(st.integers(1, 2)),
        plain_input=draw(st.booleans()),
    )


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), machine=st.sampled_from([Machine(4, 8), Machine(8, 16)]))
def test_any_shape(case: Case, machine: Machine, run) -> None:
    check(case, machine, run)


@st.composite
def narrow_cases(draw: st.DrawFn) -> tuple[Case, int]:
    case = draw(cases())
    abreast = draw(st.sampled_from((2, 4, 8)))
    case = replace(
        case,
        outputs=draw(st.integers(1, 8 // abreast)),
        groups=1,
        dilations=(1,) * len(case.size),
        kernel=(*case.kernel[:-1], max(2, case.kernel[-1])),
        size=(*case.size[:-1], case.size[-1] + 3 * abreast),
    )
    return case, abreast


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(narrow=narrow_cases())
def test_any_narrow_shape(narrow: tuple[Case, int], run) -> None:
    case, abreast = narrow
    check(case, Machine(8, 16), run, abreast=abreast)


@pytest.mark.parametrize("groups", [1, 3])
def test_weights_that_are_packed_at_run_time_are_packed_alike(groups: int, run) -> None:
    machine = Machine(8, 16)
    windows = (Window(9, 9, 3, pad=1), Window(9, 8, 2))
    shapes = convolution_of(ConvolutionShape(1, 11, 21, groups, windows), machine)
    w = np.random.default_rng(0).standard_normal((21 * groups, 11, 3, 2), dtype=np.float32)
    weights = te.placeholder(w.shape, "float32", name="weights")
    packing = elementwise(packed_weights(weights, shapes, machine), PLAIN, [Source(weights, PLAIN)], machine)
    packed = pack_weights(w, shapes, machine)
    assert packed.shape == packed_shape(shapes, machine)
    np.testing.assert_array_equal(run(packing, w, output=packed.shape), packed)


@pytest.mark.parametrize(("outputs", "groups"), [(24, 1), (10, 4)])
def test_every_range_of_blocks_is_its_share_of_the_whole(
    outputs: int, groups: int, run_ranges: Callable[..., Sequence[np.ndarray]]
) -> None:
    machine = Machine(8, 16)
    shapes = convolution_of(ConvolutionShape(2, 8, outputs, groups, (Window(10, 10, 3, pad=1),) * 2), machine)
    blocked = Layout(machine.lanes)
    stored = (2, outputs * groups, 10, 10)
    image = te.placeholder((2, 8 * groups, 10, 10), "float32", name="image")
    anchor = te.placeholder(stored, "float32", name="anchor")
    definition = convolution(shapes, Source(image, blocked), Epilogue(anchor, anchor, (), blocked), machine)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8 * groups, 10, 10), dtype=np.float32)
    w = rng.standard_normal((outputs * groups, 8, 3, 3), dtype=np.float32)
    arrays = [to_blocks(x, 8), pack_weights(w, shapes, machine)]
    output = [(blocked.physical_shape(stored), "float32")]
    (whole,) = run_ranges(definition, arrays, output, [(0, definition.blocks)])
    singly = [(block, block + 1) for block in range(definition.blocks)]
    rng.shuffle(singly)
    (parts,) = run_ranges(definition, arrays, output, singly)
    np.testing.assert_array_equal(parts, whole)
    (half,) = run_ranges(definition, arrays, output, [(0, definition.blocks // 2)])
    assert np.isnan(half).any() and not np.isnan(half).all()


@pytest.mark.parametrize("groups", [1, 3])
def test_channels_are_read_in_any_order(groups: int, run) -> None:
    """Some twice, and others not at all."""
    machine, blocked = Machine(8, 16), Layout(8)
    shapes = convolution_of(ConvolutionShape(1, 5, 11, groups, (Window(6, 6, 3, pad=1),) * 2), machine)
    image = te.placeholder((1, 13, 6, 6), "float32", name="image")
    anchor = te.placeholder((1, 11 * groups, 6, 6), "float32", name="anchor")
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 13, 5 * groups, dtype=np.int32)
    order = Source(te.placeholder(indices.shape, "int32", name="order"), PLAIN)
    definition = convolution(shapes, Source(image, blocked), Epilogue(anchor, anchor, (), blocked), machine, order)
    x = rng.standard_normal((1, 13, 6, 6), dtype=np.float32)
    w = rng.standard_normal((11 * groups, 5, 3, 3), dtype=np.float32)
    packed = pack_weights(w, shapes, machine)
    expected = onnx_node("Conv", x[:, indices], w, pads=[1, 1, 1, 1], group=groups)
    actual = run(definition, to_blocks(x, 8), packed, indices, output=blocked.physical_shape(expected.shape))
    assert_close(from_blocks(actual, 11 * groups), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("outputs", [3, 10, 11])
def test_what_is_not_finite_stays_in_its_group(outputs: int, bad: float, run) -> None:
    machine, blocked = Machine(8, 16), Layout(8)
    shapes = convolution_of(ConvolutionShape(1, 5, outputs, 3, (Window(6, 6, 1),) * 2), machine)
    image = te.placeholder((1, 15, 6, 6), "float32", name="image")
    anchor = te.placeholder((1, 3 * outputs, 6, 6), "float32", name="anchor")
    definition = convolution(shapes, Source(image, blocked), Epilogue(anchor, anchor, (), blocked), machine)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 15, 6, 6), dtype=np.float32)
    x[0, 5:10] = bad  # the group in the middle
    w = rng.standard_normal((3 * outputs, 5, 1, 1), dtype=np.float32)
    packed = pack_weights(w, shapes, machine)
    actual = run(definition, to_blocks(x, 8), packed, output=blocked.physical_shape((1, 3 * outputs, 6, 6)))
    finite = np.isfinite(from_blocks(actual, 3 * outputs)).all(axis=(0, 2, 3))
    np.testing.assert_array_equal(finite, np.repeat([True, False, True], outputs))


def test_operations_are_counted_once_per_output() -> None:
    machine = Machine(8, 16)
    shapes = convolution_of(ConvolutionShape(1, 16, 24, 2, (Window(10, 10, 3, pad=1),) * 2), machine)
    image = te.placeholder((1, 32, 10, 10), "float32", name="image")
    anchor = te.placeholder((1, 48, 10, 10), "float32", name="anchor")
    source = Source(image, Layout(8))
    definition = convolution(shapes, source, Epilogue(anchor, anchor, (), Layout(8)), machine)
    assert definition.operations == 2 * 16 * 9 * 48 * 100
