"""Depthwise convolution and pooling, against onnxruntime's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.layouts import assert_close, from_blocks, onnx_node, to_blocks
from tvm import te, tirx

from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.pooling import AVERAGE, DEPTHWISE, MAXIMUM, Sliding, pack_depthwise, sliding_window
from lepton_compile.kernels.window import Window

Finish = Callable[[tirx.Expr], tirx.Expr]


def cheap(value: tirx.Expr) -> tirx.Expr:
    return tirx.max(value, tirx.const(-0.5, "float32"))


def costly(value: tirx.Expr) -> tirx.Expr:
    """More operations than are unrolled over the columns."""
    for _ in range(9):
        value = value * 0.5 + 0.25
    return value


def numpy_costly(value: np.ndarray) -> np.ndarray:
    for _ in range(9):
        value = value * np.float32(0.5) + np.float32(0.25)
    return value


def kernel_of(
    sliding: Sliding,
    x: np.ndarray,
    windows: list[Window],
    machine: Machine,
    finish: Finish = cheap,
    counts_padding: list[int] | None = None,
) -> Definition:
    blocked = Layout(machine.lanes)
    image = te.placeholder(x.shape, "float32", name="image")
    anchor = te.placeholder((*x.shape[:2], *(w.positions for w in windows)), "float32", name="anchor")
    result = te.compute(anchor.shape, lambda *i: finish(anchor(*i)), name="result")
    epilogue = Epilogue(result, anchor, (), blocked)
    return sliding_window(
        sliding, windows, image, Source(image, blocked), epilogue, machine, counts_padding=counts_padding
    )


def windows_of(
    size: tuple[int, ...],
    output: tuple[int, ...],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
) -> list[Window]:
    facts = zip(size, output, kernel, strides, dilations, pads, strict=False)
    return [Window(*each) for each in facts]


POOLS = [
    pytest.param((2, 19, 12, 11), [3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, id="strided"),
    pytest.param((1, 8, 7, 7), [7, 7], {}, id="whole image"),
    pytest.param((1, 5, 9, 14), [2, 3], {"strides": [2, 3], "ceil_mode": 1}, id="ceil"),
    pytest.param((1, 5, 8, 8), [3, 3], {"strides": [2, 2], "pads": [1, 0, 1, 0], "ceil_mode": 1}, id="ceil padded"),
    pytest.param((1, 16, 10, 40), [3, 3], {"pads": [0, 2, 1, 1]}, id="asymmetric"),
    pytest.param((1, 9, 11, 12), [3, 2], {"dilations": [2, 3], "pads": [1, 1, 1, 1]}, id="dilated"),
    pytest.param((3, 10, 31), [4], {"strides": [3], "pads": [3, 2]}, id="line"),
    pytest.param((1, 4, 5, 6, 7), [2, 3, 2], {"strides": [2, 1, 2], "pads": [0, 1, 1, 1, 1, 0]}, id="volume"),
]


def check_pool(
    op_type: str,
    run,
    machine: Machine,
    shape: tuple[int, ...],
    kernel: list[int],
    attributes: dict[str, object],
    x: np.ndarray | None = None,
) -> None:
    rank = len(kernel)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) if x is None else x
    expected = onnx_node(op_type, x, kernel_shape=kernel, **attributes)
    pads = attributes.get("pads", [0] * (2 * rank))
    windows = windows_of(
        shape[2:],
        expected.shape[2:],
        kernel,
        attributes.get("strides", [1] * rank),
        attributes.get("dilations", [1] * rank),
        pads[:rank],
    )
    counted = None
    if attributes.get("count_include_pad"):
        counted = [size + before + after for size, before, after in zip(shape[2:], pads, pads[rank:], strict=False)]
    sliding = AVERAGE if op_type == "AveragePool" else MAXIMUM
    definition = kernel_of(sliding, x, windows, machine, cheap, counted)
    output = Layout(machine.lanes).physical_shape(expected.shape)
    actual = run(definition, to_blocks(x, machine.lanes), output=output)
    assert_close(from_blocks(actual, shape[1]), np.maximum(expected, np.float32(-0.5)), 1e-6)


@pytest.mark.parametrize(("shape", "kernel", "attributes"), POOLS)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "AveragePool with padding"])
def test_pools(op_type: str, shape, kernel, attributes, run) -> None:
    op_type, _, padding = op_type.partition(" ")
    check_pool(
        op_type, run, Machine(8, 16), shape, kernel, {**attributes, **({"count_include_pad": 1} if padding else {})}
    )


def test_instruction_sets(machine: Machine, run) -> None:
    check_pool("AveragePool", run, machine, (1, 19, 9, 20), [3, 3], {"pads": [1, 1, 1, 1]})


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_nan_and_infinities_stay_in_their_windows(op_type: str, run) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 14), dtype=np.float32)
    x[0, 0, 2, 3], x[0, 1, 5, 5], x[0, 1, 7, 7], x[0, 2] = np.nan, np.inf, -np.inf, -np.inf
    if op_type == "MaxPool":
        # onnxruntime passes over NaN as well, unless it comes last in its window.
        seen = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        expected = np.fmax.reduce(seen, axis=(4, 5))
    else:
        expected = onnx_node(op_type, x, kernel_shape=[3, 3])
    definition = kernel_of(
        MAXIMUM if op_type == "MaxPool" else AVERAGE,
        x,
        [Window(12, 10, 3), Window(14, 12, 3)],
        Machine(8, 16),
        lambda v: v,
    )
    actual = run(definition, to_blocks(x, 8), output=Layout(8).physical_shape(expected.shape))
    assert_close(from_blocks(actual, 3), expected)


DEPTHWISE_CASES = [
    pytest.param((1, 24, 14, 14), [3, 3], {"pads": [1, 1, 1, 1]}, id="square"),
    pytest.param((2, 19, 15, 13), [5, 3], {"strides": [2, 2], "pads": [2, 0, 1, 1]}, id="strided"),
    pytest.param((1, 7, 9, 30), [3, 3], {"dilations": [2, 3], "pads": [2, 3, 2, 3]}, id="dilated"),
    pytest.param((1, 12, 40), [9], {"pads": [8, 0]}, id="causal line"),
    pytest.param((1, 6, 4, 5, 6), [3, 3, 3], {"pads": [1] * 6}, id="volume"),
    pytest.param((1, 6, 5, 3), [3, 3], {"pads": [1, 4, 1, 4]}, id="windows in the padding"),
]


@pytest.mark.parametrize(("shape", "kernel", "attributes"), DEPTHWISE_CASES)
@pytest.mark.parametrize("finish", [cheap, costly])
def test_depthwise(finish: Finish, shape, kernel, attributes, run) -> None:
    check_depthwise(Machine(8, 16), run, shape, kernel, attributes, finish)


def test_depthwise_on_instruction_sets(machine: Machine, run) -> None:
    check_depthwise(machine, run, (1, 19, 9, 20), [3, 3], {"pads": [1, 1, 1, 1]})


def check_depthwise(machine: Machine, run, shape, kernel, attributes, finish: Finish = cheap) -> None:
    rng, rank, channels = np.random.default_rng(0), len(kernel), shape[1]
    x = rng.standard_normal(shape, dtype=np.float32)
    w = rng.standard_normal((channels, 1, *kernel), dtype=np.float32) / np.float32(math.sqrt(math.prod(kernel)))
    expected = onnx_node("Conv", x, w, group=channels, **attributes)
    windows = windows_of(
        shape[2:],
        expected.shape[2:],
        kernel,
        attributes.get("strides", [1] * rank),
        attributes.get("dilations", [1] * rank),
        attributes.get("pads", [0] * rank),
    )
    definition = kernel_of(DEPTHWISE, x, windows, machine, finish)
    actual = run(
        definition,
        to_blocks(x, machine.lanes),
        pack_depthwise(w, machine),
        output=Layout(machine.lanes).physical_shape(expected.shape),
    )
    wanted = np.maximum(expected, np.float32(-0.5)) if finish is cheap else numpy_costly(expected)
    assert_close(from_blocks(actual, channels), wanted)


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int], dict[str, object]]:
    rank = draw(st.integers(1, 2))

    def per_axis(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, strides = per_axis(1, 4), per_axis(1, 3)
    # onnxruntime wants pads below the kernel.
    pads = [draw(st.integers(0, k - 1)) for k in [*kernel, *kernel]]
    size = [draw(st.integers(k, k + 12)) for k in kernel]
    attributes: dict[str, object] = {"strides": strides, "pads": pads}
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 10)), *size), kernel, attributes


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=pools(), op_type=st.sampled_from(["MaxPool", "AveragePool", "count"]))
def test_any_pool(case, op_type: str, run) -> None:
    shape, kernel, attributes = case
    if op_type == "count":
        op_type, attributes = "AveragePool", {**attributes, "count_include_pad": 1}
    check_pool(op_type, run, Machine(4, 16), shape, kernel, attributes)
