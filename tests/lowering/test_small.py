"""Programs that are to be small, against onnxruntime: weights without padding, windows at borders one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowering.conftest import Agree, Model

from lepton_compile.codegen import generate
from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import Target, resolve_target

RANDOM = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPILOGUES = ("", "Relu", "HardSwish", "Sigmoid")


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], dict[str, list[int]], list[int]]:
    """Extents of an image, a window's attributes, and the kernel, of one to three axes."""
    axes = draw(st.integers(1, 3))
    each = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    kernel = draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes))
    strides, dilations = draw(each), draw(each)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, k // 2)) for k in (*kernel, *kernel)]
    image = [draw(st.integers(r, r + 19)) for r in reach]
    return image, {"strides": strides, "dilations": dilations, "pads": pads}, kernel


def finished(model: Model, value: str, kind: str) -> str:
    return str(model.node(kind, value)) if kind else value


@RANDOM
@given(data=st.data())
def test_convolutions(data: st.DataObject, model: Model, agree: Agree) -> None:
    model = Model()
    image, attributes, kernel = data.draw(windows())
    groups = data.draw(st.sampled_from((1, 1, 2, 3)))
    inputs, outputs = (data.draw(st.integers(1, 40)) for _ in range(2))
    weights = model.constant(np.random.default_rng(0).standard_normal((groups * outputs, inputs, *kernel)))
    bias = model.constant(np.random.default_rng(1).standard_normal(groups * outputs))
    x = model.input(data.draw(st.integers(1, 2)), groups * inputs, *image)
    y = model.node("Conv", x, weights, bias, group=groups, **attributes)
    model.output(finished(model, y, data.draw(st.sampled_from(EPILOGUES))))
    agree(model, small=True, passes=(True,))


@RANDOM
@given(data=st.data())
def test_windows_over_each_channel(data: st.DataObject, model: Model, agree: Agree) -> None:
    model = Model()
    image, attributes, kernel = data.draw(windows())
    channels = data.draw(st.integers(2, 40))
    x = model.input(data.draw(st.integers(1, 2)), channels, *image)
    kind = data.draw(st.sampled_from(("Conv", "MaxPool", "AveragePool")))
    if kind == "Conv":
        weights = model.constant(np.random.default_rng(0).standard_normal((channels, 1, *kernel)))
        y = model.node("Conv", x, weights, group=channels, **attributes)
    else:
        counted = {"count_include_pad": data.draw(st.integers(0, 1))} if kind == "AveragePool" else {}
        y = model.node(kind, x, kernel_shape=kernel, **attributes, **counted)
    model.output(finished(model, y, data.draw(st.sampled_from(EPILOGUES))))
    agree(model, small=True, passes=(True,))


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "x86-64-v4-vnni"])
def test_instruction_sets(name: str, model: Model, agree: Agree) -> None:
    """Residuals that are read after the raw sums were stored, and what is not of one tile."""
    x = model.input(1, 21, 9, 31)
    rng = np.random.default_rng(2)
    wide = model.node("Conv", x, model.constant(rng.standard_normal((50, 21, 1, 1))))
    deep = model.node("Conv", wide, model.constant(rng.standard_normal((50, 1, 5, 5))), group=50, pads=[2] * 4)
    y = model.node("Conv", model.node("Relu", deep), model.constant(rng.standard_normal((21, 50, 1, 1))))
    model.output(model.node("Add", y, x))
    spread = model.node("ConvTranspose", x, model.constant(rng.standard_normal((21, 19, 3, 3))), strides=[2, 2])
    model.output(model.node("Relu", spread))
    agree(model, small=True, target=resolve_target(name))


def test_weights_are_stored_without_padding(model: Model, agree: Agree) -> None:
    x = model.input(1, 50, 7, 7)
    shape = (37, 50, 3, 3)
    model.output(model.node("Conv", x, model.constant(np.random.default_rng(3).standard_normal(shape)), pads=[1] * 4))
    for program in agree(model, small=True):
        (packed,) = program.weights.values()
        # A vector, or a tile of them, may reach past the last output.
        assert math.prod(shape) <= packed.size < math.prod(shape) + 37 * 4


def test_a_small_library_has_half_of_the_code(model: Model, host: Target) -> None:
    x = model.input(1, 24, 20, 45)
    rng = np.random.default_rng(4)
    wide = model.node("Relu", model.node("Conv", x, model.constant(rng.standard_normal((40, 24, 1, 1)))))
    deep = model.node("Conv", wide, model.constant(rng.standard_normal((40, 1, 5, 5))), group=40, pads=[2] * 4)
    y = model.node("Conv", model.node("HardSwish", deep), model.constant(rng.standard_normal((24, 40, 3, 3))))
    model.output(model.node("Relu", y))
    graph, _ = adapt(import_model(model.proto()), host)
    code: list[int] = []
    for small in (True, False):
        library = generate(lower(graph, host, "model", exact_order=True, small=small), host)
        code.append(library.path.stat().st_size - sum(values.nbytes for values in library.program.weights.values()))
    # What stands in every library: the driver, the threads' pool, the tables of the file's format.
    empty = code_of_nothing(host)
    assert code[0] - empty < (code[1] - empty) / 2


def code_of_nothing(host: Target) -> int:
    model = Model()
    model.output(model.node("Neg", model.input(16)))
    library = generate(lower(import_model(model.proto()), host, "model"), host)
    return library.path.stat().st_size
