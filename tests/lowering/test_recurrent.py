"""RNN, GRU and LSTM nodes, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.lowering import lower
from lepton_compile.model import import_model

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CELLS = pytest.mark.parametrize("cell", list(GATES))


def layer(
    model,
    cell: str,
    *,
    steps: int = 5,
    batch: int = 2,
    inputs: int = 6,
    hidden: int = 20,
    bias: bool = True,
    lengths: str = "",
    initial: bool = False,
    peepholes: bool = False,
    **attributes: object,
) -> list[str]:
    """The outputs of a recurrent layer over an input of its own."""
    gates, states = GATES[cell], 2 if cell == "LSTM" else 1
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    x = model.input(batch, steps, inputs) if attributes.get("layout") else model.input(steps, batch, inputs)
    w, r = model.weight(directions, gates * hidden, inputs), model.weight(directions, gates * hidden, hidden)
    b = model.weight(directions, 2 * gates * hidden) if bias else ""
    state = (batch, directions, hidden) if attributes.get("layout") else (directions, batch, hidden)
    starts = [model.input(*state) if initial else "" for _ in range(states)]
    more = [model.weight(directions, 3 * hidden)] if peepholes else []
    operands = [x, w, r, b, lengths, *starts, *more]
    return model.node(cell, *operands, outputs=1 + states, hidden_size=hidden, **attributes)


@CELLS
@pytest.mark.parametrize("hidden", [16, 21])
def test_directions(cell: str, hidden: int, model, agree) -> None:
    for direction in ("forward", "reverse", "bidirectional"):
        model.output(*layer(model, cell, hidden=hidden, direction=direction, initial=True))
    model.output(*layer(model, cell, hidden=hidden, bias=False, batch=1, steps=1))
    agree(model, passes=[True])


@CELLS
def test_lengths(cell: str, model, agree) -> None:
    """Known, all equal, and given at run time; what follows a sequence's end is zero."""
    given = model.given(np.array([1, 4, 5], np.int32))
    for direction in ("forward", "bidirectional"):
        model.output(*layer(model, cell, batch=3, direction=direction, lengths=given, initial=True))
    model.output(*layer(model, cell, batch=3, direction="reverse", lengths=model.constant([3, 5, 2], "int32")))
    model.output(*layer(model, cell, batch=3, lengths=model.constant([5, 5, 5], "int32")))
    agree(model, passes=[False])


def test_reset_after_the_product(model, agree) -> None:
    for linear in (0, 1):
        for attributes in ({"direction": "bidirectional"}, {"clip": 0.5}, {"bias": False}):
            model.output(*layer(model, "GRU", linear_before_reset=linear, hidden=18, initial=True, **attributes))
    agree(model, passes=[False])


def test_lstm_with_peepholes_and_coupled_gates(model, agree) -> None:
    model.output(*layer(model, "LSTM", peepholes=True, initial=True, direction="bidirectional"))
    model.output(*layer(model, "LSTM", peepholes=True, clip=0.3))
    agree(model, passes=[False])


@CELLS
def test_activations(cell: str, model, agree) -> None:
    for names, alphas, betas in {
        "RNN": [(["Relu"], [], []), (["Elu"], [0.3], [])],
        "GRU": [(["hardsigmoid", "softsign"], [], []), (["Sigmoid", "Affine"], [0.3], [0.1])],
        "LSTM": [
            (["Sigmoid", "LeakyRelu", "ScaledTanh"], [0.1, 1.5], [0.7]),
            (["HardSigmoid", "Tanh", "ThresholdedRelu"], [0.3, 0.1], [0.4]),
        ],
    }[cell]:
        given = {"activation_alpha": alphas, "activation_beta": betas}
        model.output(*layer(model, cell, activations=names, **{key: value for key, value in given.items() if value}))
    agree(model, passes=[False])


@CELLS
def test_batch_first(cell: str, model, agree) -> None:
    """Which onnxruntime does not do: held to ONNX's reference implementation, which does one direction alone."""
    model.output(*layer(model, cell, layout=1, batch=3, initial=True))
    agree(model, passes=[False], reference=True)


@CELLS
def test_the_last_state_alone(cell: str, model, agree) -> None:
    """Outputs that nobody asked for, and states that are carried from one layer to the next."""
    x = model.input(4, 1, 6)
    w, r = (model.weight(1, GATES[cell] * 8, size) for size in (6, 8))
    node = {"hidden_size": 8, "outputs": 2}
    _, state = model.node(cell, x, w, r, **node)
    hidden, last = model.node(cell, x, w, r, "", "", state, **node)
    model.output(last, model.node("Squeeze", hidden, model.constant([1], "int64")))
    agree(model)


def test_weights_that_are_not_known_are_an_error(model, host) -> None:
    x, w, r = model.input(4, 1, 6), model.input(1, 8, 6), model.weight(1, 8, 8)
    model.output(model.node("RNN", x, w, r, hidden_size=8, name="y"))
    with pytest.raises(UnsupportedOperatorError, match=r"node_y.*constant weights"):
        lower(import_model(model.proto()), host, "model")
