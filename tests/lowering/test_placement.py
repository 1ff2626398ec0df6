"""Concat, Split and Slice where they lie: onnxruntime's answers, and no kernel that copies what need not be copied."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import BudgetError
from lepton_compile.lowering import Program, lower
from lepton_compile.lowering import in_place as in_place_module
from lepton_compile.lowering.program import location
from lepton_compile.model import import_model
from lepton_compile.target import resolve_target


def families(program: Program) -> list[str]:
    return [program.kernels[call.kernel].family for call in program.calls()]


def copies(program: Program) -> int:
    """How many calls move data and do nothing else."""
    return sum(family in ("copy", "elementwise") for family in families(program))


def convolve(model, x: str, inputs: int, outputs: int) -> str:
    return model.node("Conv", x, model.weight(outputs, inputs, 3, 3), pads=[1] * 4)


def test_a_chain_of_blocked_concatenations(model, agree) -> None:
    x = convolve(model, model.input(1, 3, 6, 6), 3, 64)
    for channels in (64, 128, 192):
        x = model.node("Concat", x, convolve(model, x, channels, 64), axis=1)
    model.output(model.node("GlobalAveragePool", x))
    for program in agree(model):
        assert not any(location(program.buffers, b.name)[0] != b.name for b in program.outputs)
        assert copies(program) <= 1  # the average


def test_batch_normalization_behind_a_concatenation_stays_blocked(model, agree) -> None:
    x = convolve(model, model.input(1, 3, 6, 6), 3, 64)
    x = model.node("Concat", x, convolve(model, x, 64, 20), axis=1)
    statistics = [model.constant(np.linspace(0.5, 2, 84)) for _ in range(4)]
    x = model.node("Relu", model.node("BatchNormalization", x, *statistics))
    model.output(model.node("GlobalAveragePool", convolve(model, x, 84, 16)))
    for program in agree(model):
        assert "copy" not in families(program)


@pytest.mark.parametrize("widths", [(24, 24, 16), (8, 5, 3), (16, 20), (20, 16)], ids=str)
def test_parts_that_do_not_fill_blocks(widths: tuple[int, ...], model, agree) -> None:
    x = model.input(1, 3, 5, 7)
    parts = [convolve(model, x, 3, width) for width in widths]
    model.output(convolve(model, model.node("Concat", *parts, axis=1), sum(widths), 4))
    agree(model)


def test_halves_that_are_concatenated_again(model, agree) -> None:
    x = convolve(model, model.input(1, 3, 6, 6), 3, 128)
    first, second = model.node("Split", x, outputs=2, axis=1, num_outputs=2)
    made = convolve(model, second, 64, 64)
    whole = model.node("Concat", first, second, made, model.node("Add", made, second), axis=1)
    model.output(convolve(model, whole, 256, 64))
    for program in agree(model):
        assert copies(program) <= 2  # the sum, and the output's layout


@pytest.mark.parametrize("bounds", [(64, 128), (64, 100), (5, 64), (3, 20)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_slices_of_blocked_channels(batch: int, bounds: tuple[int, int], model, agree) -> None:
    x = convolve(model, model.input(batch, 3, 4, 5), 3, 128)
    limits = (model.constant([value], "int64") for value in (*bounds, 1))
    model.output(convolve(model, model.node("Slice", x, *limits), bounds[1] - bounds[0], 8))
    agree(model)


def test_an_operand_that_is_elsewhere_already(model, agree) -> None:
    """Inputs, weights, outputs, and tensors that two Concats want."""
    x, y = model.input(2, 3), model.input(2, 3)
    w = model.weight(2, 3)
    total = model.node("MatMul", x, model.weight(3, 3))
    model.output(
        model.node("Concat", x, w, total, axis=0),
        model.node("Concat", total, total, y, axis=0),
        model.node("Relu", model.node("Concat", total, y, axis=1)),
        total,
    )
    agree(model)


def test_parts_of_inputs_are_read_where_they_lie(model, agree) -> None:
    x = model.input(6, 40)
    parts = model.node("Split", x, outputs=3, axis=0, num_outputs=3)
    row = model.node("Gather", x, model.constant(4, "int64"), axis=0)
    made = model.node("MatMul", parts[1], model.weight(40, 4))
    model.output(made, model.node("MatMul", row, model.weight(40, 3)))
    for program in agree(model):
        assert copies(program) == 0


def test_branches(model, agree) -> None:
    for taken in (True, False):
        model = type(model)()
        x = model.input(1, 8)
        outer = model.node("MatMul", x, model.weight(8, 8))
        sides = []
        for order in (1, -1):
            side = type(model)(model)
            inner = side.node("MatMul", outer, side.weight(8, 8))
            side.output(side.node("Concat", *(outer, inner)[::order], axis=1))
            sides.append(side)
        chosen = model.branch(model.given(np.array(taken)), *sides)
        model.output(model.node("Concat", chosen, outer, axis=1), outer)
        agree(model)


def test_large_results_are_computed_in_place(model, agree, monkeypatch) -> None:
    monkeypatch.setattr(in_place_module, "IN_PLACE_BYTES", 0)
    x = model.node("MatMul", model.input(9, 33), model.weight(33, 33))
    scaled = model.node("Mul", x, model.weight(1, 33))
    y = model.node("MatMul", scaled, model.weight(33, 33))
    for _ in range(3):
        y = model.node("Add", y, model.node("MatMul", y, model.weight(33, 33)))
    turned = model.node("Transpose", y, perm=[1, 0])
    square = model.node("MatMul", y, turned)
    model.output(model.node("Softmax", model.node("Add", square, model.node("Transpose", square, perm=[1, 0]))))
    plain, _ = agree(model)
    shared = [
        call
        for call in plain.calls()
        if location(plain.buffers, call.arguments[-1])[0]
        in {location(plain.buffers, a)[0] for a in call.arguments[:-1]}
    ]
    assert shared


def test_a_model_larger_than_the_memory_is_refused(model) -> None:
    model.output(model.node("MatMul", model.node("Relu", model.input(512, 512)), model.weight(512, 512)))
    small = {"extends": "x86-64-v3", "name": "small", "memory": {"size": "2 MB"}}
    with pytest.raises(BudgetError, match=r"a run takes \d+ bytes of memory, .* and the target has 2"):
        lower(import_model(model.proto()), resolve_target(small), "model")
