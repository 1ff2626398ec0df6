"""Products whose left operand is quantized by its own range at run time, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target

from .conftest import Model


def dynamic_product(model, x: str, columns: int, *, dtype: str = "int8", zero: object = None, name: str = "y") -> str:
    """What onnxruntime's quantizer makes of x W + b."""
    inner = model.inputs[x].shape[-1]
    rng = np.random.default_rng(inner * columns)
    limits = np.iinfo(dtype)
    weights = model.constant(rng.integers(limits.min, limits.max + 1, (inner, columns)), dtype)
    quantized, scale, offset = model.node("DynamicQuantizeLinear", x, outputs=3)
    zeros = [] if zero is None else [model.constant(zero, dtype)]
    sums = model.node("Cast", model.node("MatMulInteger", quantized, weights, offset, *zeros), to=1)
    steps = model.node("Mul", scale, model.constant(rng.random(() if zero is None else columns) / 99))
    return str(
        model.node("Add", model.node("Mul", sums, steps), model.constant(rng.standard_normal(columns)), name=name)
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    inner=st.integers(1, 70),
    columns=st.integers(1, 50),
    dtype=st.sampled_from(["int8", "uint8"]),
    zeros=st.sampled_from(["none", "one", "each"]),
    shift=st.sampled_from([-3.0, 0.0, 9.0]),
)
def test_random_products(agree, rows, inner, columns, dtype, zeros, shift) -> None:
    model = Model()
    rng = np.random.default_rng(inner)
    x = model.given((rng.standard_normal((*rows, inner)) + shift).astype(np.float32))
    limits = np.iinfo(dtype)
    zero = {"none": None, "one": limits.max - 100, "each": rng.integers(limits.min, limits.max, columns)}[zeros]
    model.output(dynamic_product(model, x, columns, dtype=dtype, zero=zero))
    agree(model)


def test_a_signed_operand(model, agree) -> None:
    a = model.given(np.random.default_rng(0).integers(-128, 128, (6, 21)).astype(np.int8))
    b = model.constant(np.random.default_rng(1).integers(0, 256, (21, 18)), "uint8")
    model.output(model.node("MatMulInteger", a, b, model.constant(-9, "int8"), model.constant(200, "uint8")))
    model.output(model.node("MatMulInteger", a, b))
    agree(model, reference=True)


@pytest.mark.parametrize("factor", [1e-42, 1e-36, 1e-20, 1.0, 1e30])
def test_ranges_of_any_size(model, agree, factor) -> None:
    values = np.random.default_rng(0).standard_normal((5, 33)) * factor
    quantized = model.node("DynamicQuantizeLinear", model.given(values.astype(np.float32)), outputs=3)
    model.output(*quantized)
    agree(model)


@pytest.mark.parametrize("value", [0.0, -1.5, 2.5])
def test_constant_tensors(model, agree, value) -> None:
    model.output(*model.node("DynamicQuantizeLinear", model.given(np.full((4, 5), value, np.float32)), outputs=3))
    agree(model)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_processors_without_the_instruction(name: str, model, agree) -> None:
    target = resolve_target(name)
    if not target.is_host_compatible():
        pytest.skip(f"this machine runs no code for {name}")
    model.output(dynamic_product(model, model.input(3, 20), 17, zero=np.arange(17)))
    agree(model, target=target, passes=[True])


def test_one_kernel_multiplies_and_scales(model) -> None:
    x = model.input(2, 8, 32)
    model.output(model.node("Relu", dynamic_product(model, x, 48)))
    target = resolve_target("x86-64-v4-vnni")
    graph, _ = adapt(import_model(model.proto()), target)
    program = lower(graph, target, "model")
    calls = [(program.kernels[call.kernel].family, program.buffers[call.arguments[-1]]) for call in program.calls()]
    assert [family for family, _ in calls].count("integer matmul") == 1
    large = [buffer.dtype for _, buffer in calls if buffer.shape in ((2, 8, 32), (2, 8, 48))]
    assert large == ["uint8", "float32"]
