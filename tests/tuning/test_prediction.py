"""What steps take by the model of costs."""

from __future__ import annotations

import pytest
from lowering.conftest import Model

from lepton_compile.lowering import lower
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.target import resolve_target
from lepton_compile.tuning.prediction import predicted_seconds


def of_channels(inputs: int, outputs: int) -> Model:
    model = Model()
    x = model.input(1, inputs, 32, 32)
    model.output(model.node("Conv", x, model.weight(outputs, inputs, 3, 3)))
    return model


def of_columns(inputs: int, outputs: int) -> Model:
    model = Model()
    model.output(model.node("MatMul", model.input(64, inputs), model.weight(inputs, outputs)))
    return model


@pytest.mark.parametrize("family", [of_channels, of_columns])
def test_what_fills_no_vector_takes_as_long_as_what_does(family: type[Model]) -> None:
    """Vectors of x86-64-v4 have 16 lanes."""
    target = resolve_target("x86-64-v4")

    def seconds(inputs: int, outputs: int) -> float:
        program = lower(adapt(import_model(family(inputs, outputs).proto()), target)[0], target, "model")
        return sum(predicted_seconds(program, target).values())

    assert seconds(64, 33) == pytest.approx(seconds(64, 48), rel=0.05)
    assert seconds(64, 32) < 0.75 * seconds(64, 48)
    assert seconds(32, 48) < 0.75 * seconds(64, 48)


def test_pixels_that_share_a_vector_are_expected_to_be_faster() -> None:
    target = resolve_target("raspberry-pi-4")
    model = Model()
    model.output(model.node("Conv", model.input(1, 16, 64, 64), model.weight(1, 16, 5, 5), pads=[2] * 4))
    graph, _ = adapt(import_model(model.proto()), target)
    together, alone = (lower(graph, target, "model", exact_order=exactly) for exactly in (False, True))
    assert "pixels in a vector" in together.choices[0].taken
    seconds = [sum(predicted_seconds(program, target).values()) for program in (together, alone)]
    assert seconds[0] < 0.5 * seconds[1]
    operations = [sum(kernel.operations for kernel in program.kernels.values()) for program in (together, alone)]
    assert operations[0] == operations[1]
