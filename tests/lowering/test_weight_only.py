"""Float operators that read their weights through DequantizeLinear, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering.conftest import Model

from lepton_compile.codegen import generate
from lepton_compile.lowering import Program, lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.runtime.loader import CompiledModel
from lepton_compile.target import Target, resolve_target

# Of 16 bits, half of what there is, so that numbers less zero points are of 16 bits too.
RANGES = {"int16": (-(2**14), 2**14), "int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8), "uint4": (0, 16)}


def integers(model: Model, dtype: str, shape: tuple[int, ...], seed: int = 0) -> str:
    """Constant integers of a type over all of its range."""
    values = np.random.default_rng(seed).integers(*RANGES[dtype], shape)
    return model.constant(values, onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.upper())))


def dequantized(
    model: Model, dtype: str, shape: tuple[int, ...], axis: int, *, block: int = 0, zero: bool = False, seed: int = 0
) -> str:
    """Known weights, with a scale, and perhaps a zero point, for each place, or block of places, on an axis."""
    rng = np.random.default_rng(seed + 1)
    parameters = [shape[axis]]
    if block:
        parameters = [-(-size // block) if place == axis else size for place, size in enumerate(shape)]
    scales = model.constant(rng.uniform(0.5, 1.5, parameters) / 64)
    inputs = [integers(model, dtype, shape, seed), scales]
    if zero:
        inputs.append(integers(model, dtype, tuple(parameters), seed + 2))
    attributes = {"block_size": block} if block else {}
    return str(model.node("DequantizeLinear", *inputs, axis=axis, **attributes))


def families(program: Program) -> list[str]:
    return [program.kernels[call.kernel].family for call in program.calls()]


def weights_bytes(program: Program) -> int:
    return sum(values.nbytes for values in program.weights.values())


@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("zero", [False, True])
def test_products(model, agree, dtype: str, zero: bool) -> None:
    for rows, inner, columns in ((1, 64, 48), (1, 65, 300), (7, 33, 20), (20, 3, 17)):
        x = model.input(rows, inner)
        model.output(model.node("MatMul", x, dequantized(model, dtype, (inner, columns), 1, zero=zero)))
        for block in (16, 32, 7):
            w = dequantized(model, dtype, (inner, columns), 0, block=block, zero=zero)
            biased = model.node("Add", model.node("MatMul", x, w), model.constant(np.arange(columns) / 4))
            model.output(model.node("Sigmoid", biased))
    for program in agree(model, small=True):
        assert families(program).count("dequantizing matmul") == 16


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1}, {"transA": 1, "transB": 1, "alpha": 0.5}])
def test_gemm(model, agree, attributes) -> None:
    for dtype, block in (("int8", 0), ("uint4", 16), ("uint8", 20)):
        x = model.input(*((40, 5) if "transA" in attributes else (5, 40)))
        inner = 1 if "transB" in attributes else 0
        shape = (24, 40) if inner else (40, 24)
        w = dequantized(model, dtype, shape, inner if block else 1 - inner, block=block, zero=True)
        model.output(model.node("Gemm", x, w, model.constant(np.arange(24) / 4), **attributes))
    for program in agree(model, small=True):
        assert families(program).count("dequantizing matmul") == 3


def test_scales_of_a_whole_matrix_and_of_rows(model, agree) -> None:
    """One scale is that of each column; where rows have scales, numbers are dequantized at compile time."""
    x = model.input(3, 30)
    model.output(
        model.node("MatMul", x, model.node("DequantizeLinear", integers(model, "int8", (30, 9)), model.constant(0.1)))
    )
    model.output(model.node("MatMul", x, dequantized(model, "int8", (30, 9), 0)))
    for program in agree(model, small=True):
        assert families(program).count("dequantizing matmul") == 1


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 9),
    inner=st.integers(1, 80),
    columns=st.integers(1, 80),
    block=st.sampled_from([0, 1, 2, 5, 16, 32, 128]),
    dtype=st.sampled_from(list(RANGES)),
    zero=st.booleans(),
    target=st.sampled_from(["x86-64-v2", "x86-64-v3", "host"]),
)
def test_products_of_any_shape(rows, inner, columns, block, dtype, zero, target) -> None:
    model = Model()
    x = model.input(2, rows, inner)
    w = dequantized(model, dtype, (inner, columns), 0 if block else 1, block=block, zero=zero)
    model.output(model.node("Relu", model.node("MatMul", x, w)))
    hold(model, resolve_target(target))


def hold(model: Model, target: Target) -> Program:
    """Compile with small weights, and hold the answers to onnxruntime's."""
    from lowering.conftest import difference, onnxruntimes

    proto = model.proto()
    program = lower(adapt(import_model(proto), target)[0], target, "model", small=True)
    library = generate(program, target)
    got = CompiledModel(library.folder, keep=library).run(model.inputs)
    problems = {name: difference(got[name], value) for name, value in onnxruntimes(proto, model.inputs).items()}
    assert not any(problems.values()), problems
    return program


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
def test_tables(model, agree, dtype: str) -> None:
    """Rows are gathered as integers, whatever axis scales lie along."""
    rows = model.given(np.array([[3, 0, -1], [7, 7, 2]]))
    for axis, block in ((0, 0), (1, 0), (1, 8)):
        table = dequantized(model, dtype, (300, 20), axis, block=block, zero=True)
        gathered = model.node("Gather", table, rows)
        model.output(model.node("Add", gathered, model.input(2, 3, 20)))
        model.output(model.node("Gather", table, rows, axis=1))
    for program in agree(model):
        assert weights_bytes(program) < 3 * 300 * 20 * 1.2 + 2000


def test_a_table_that_is_an_output_as_well(model, agree) -> None:
    table = dequantized(model, "int8", (30, 5), 0)
    model.output(model.node("Gather", table, model.given(np.array([1, 2]))), table)
    agree(model)


CONVOLUTIONS = {
    "plain": ((1, 16, 9, 11), (24, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
    "flat": ((1, 19, 7, 5), (33, 19, 1, 1), {}),
    "few channels": ((1, 3, 20, 20), (20, 3, 3, 3), {"strides": [2, 2]}),
    "depthwise": ((1, 21, 9, 9), (21, 1, 3, 3), {"group": 21, "pads": [1, 1, 1, 1]}),
    "groups": ((1, 12, 8, 8), (18, 4, 3, 3), {"group": 3}),
    "signal": ((2, 8, 30), (16, 8, 5), {"dilations": [2]}),
}


@pytest.mark.parametrize("zero", [False, True])
def test_convolutions(model, agree, zero: bool) -> None:
    for image, weights, attributes in CONVOLUTIONS.values():
        w = dequantized(model, "int8", weights, 0, zero=zero)
        model.output(model.node("Conv", model.input(*image), w, model.weight(weights[0]), **attributes))
    w = model.node("DequantizeLinear", integers(model, "int8", (16, 16, 3, 3)), model.constant(0.01))
    model.output(model.node("Relu", model.node("Conv", model.input(1, 16, 28, 28), w)))
    for program in agree(model, small=True):
        if not zero:
            assert not any(values.dtype == np.float32 and values.size > 100 for values in program.weights.values())


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 2]}, {"strides": [3, 3], "group": 2}])
def test_transposed_convolutions(model, agree, attributes) -> None:
    for outputs in (2, 12):
        w = dequantized(model, "int8", (16, outputs, 3, 3), 1)
        bias = model.weight(outputs * attributes.get("group", 1))
        model.output(model.node("ConvTranspose", model.input(1, 16, 6, 5), w, bias, **attributes))
    for program in agree(model, small=True):
        assert not any(values.dtype == np.float32 and values.size > 100 for values in program.weights.values())


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("hidden", [16, 21])
def test_recurrent_layers(model, agree, cell: str, hidden: int) -> None:
    """With scales of rows that directions share, or have each their own (as blocks of all inputs)."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[cell] * hidden
    for direction, directions in (("forward", 1), ("bidirectional", 2)):
        for apart in (False, True):
            for linear in (0, 1) if cell == "GRU" else (0,):
                axis = 2 if apart else 1
                w = dequantized(model, "int8", (directions, gates, 12), axis, block=12 * apart)
                r = dequantized(model, "int8", (directions, gates, hidden), axis, block=hidden * apart)
                b = model.weight(directions, 2 * gates)
                more = {"linear_before_reset": linear} if cell == "GRU" else {}
                x = model.input(6, 2, 12)
                model.output(*model.node(cell, x, w, r, b, outputs=2, hidden_size=hidden, direction=direction, **more))
    for program in agree(model, small=True):
        stored = [values for values in program.weights.values() if values.size >= 12 * gates]
        assert stored
        assert all(values.dtype == np.int8 for values in stored)


def test_layers_inside_branches(model, agree) -> None:
    """Weights that are dequantized outside a branch, and inside one."""
    outside = dequantized(model, "int8", (1, 80, 12), 1)
    x = model.input(4, 1, 12)
    sides = []
    for seed in (0, 1):
        side = Model(model)
        r = dequantized(side, "int8", (1, 80, 20), 1, seed=seed)
        y, _ = side.node("LSTM", x, outside, r, outputs=2, hidden_size=20)
        side.output(y)
        sides.append(side)
    model.output(model.branch(model.given(np.array(True)), *sides))
    for program in agree(model, small=True):
        assert max(values.nbytes for values in program.weights.values()) < 80 * 20 * 2
