"""The cells of recurrent layers: RNN, GRU and LSTM.

Each is a kernel over sequences. Its inputs are x (steps, batch, gates * hidden), what the layer's inputs contribute,
with the biases; packed recurrent weights (hidden, gates, padded), and their scales if they are bytes; the initial
hidden state (directions, batch, hidden); what the cell needs beside; and the sequences' lengths (batch), if they vary.
Its outputs are Y (steps, directions, batch, hidden), Y_h (directions, batch, hidden), what the cell gives beside, and
room for the states. Gates are in ONNX's order.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from lepton_compile.kernels.kernel import Definition, Machine
from lepton_compile.kernels.loops import load, parameter, sequence, store
from lepton_compile.kernels.recurrent import Activation, Layer, Moment, Recurrence, padded_units

# Rows of a GRU's own part of the state: the update gate, and the hidden state that the reset gate let through.
UPDATE, LET_THROUGH = 0, 1


def rnn(shapes: Recurrence, machine: Machine, f: Activation) -> Definition:
    """A plain recurrence (ONNX operator RNN): H' = f(x + H R)."""
    layer = Layer(shapes, 1, machine)

    def step(moment: Moment) -> tirx.Stmt:
        products = layer.multiply(moment, [0], lambda k: layer.before(moment, k))
        return sequence(
            [
                products,
                layer.for_units(
                    moment,
                    (lambda lane: f(layer.bounded(layer.total(moment, 0, lane))), lambda j, v: layer.put(moment, j, v)),
                ),
            ]
        )

    return layer.definition("rnn", [step])


def gru(shapes: Recurrence, machine: Machine, f: Activation, g: Activation, *, linear_before_reset: bool) -> Definition:
    """A GRU (ONNX operator GRU), with gates z, r, h.

    z = f(x_z + H R_z), r = f(x_r + H R_r), h = g(x_h + (r . H) R_h), H' = (1 - z) . h + z . H.

    With `linear_before_reset`, h = g(x_h + r . (H R_h + b_h)): then b_h is not in x, but an input of its own, (padded).
    """
    return _gru_of_one_phase(shapes, machine, f, g) if linear_before_reset else _gru(shapes, machine, f, g)


def _gru_of_one_phase(shapes: Recurrence, machine: Machine, f: Activation, g: Activation) -> Definition:
    layer, lanes = Layer(shapes, 3, machine), machine.lanes
    bias = parameter("bias", [padded_units(shapes.hidden, machine)], "float32")

    def step(moment: Moment) -> tirx.Stmt:
        def value(lane: tirx.Expr) -> tirx.Expr:
            unit = moment.block * lanes + lane
            update = f(layer.bounded(layer.total(moment, 0, lane)))
            reset = f(layer.bounded(layer.total(moment, 1, lane)))
            inner = layer.product(moment, 2, lane) + load(bias, [unit])
            given = load(layer.x, [moment.time, moment.sequence, 2 * shapes.hidden + unit])
            fresh = g(layer.bounded(given + reset * inner))
            return fresh + update * (layer.before(moment, unit) - fresh)

        products = layer.multiply(moment, [0, 1, 2], lambda k: layer.before(moment, k))
        return sequence([products, layer.for_units(moment, (value, lambda j, v: layer.put(moment, j, v)))])

    return layer.definition("gru", [step], inputs=[bias])


def _gru(shapes: Recurrence, machine: Machine, f: Activation, g: Activation) -> Definition:
    layer, lanes = Layer(shapes, 3, machine, kept=2), machine.lanes

    def gate(moment: Moment) -> tirx.Stmt:
        def let_through(lane: tirx.Expr) -> tirx.Expr:
            reset = f(layer.bounded(layer.total(moment, 1, lane)))
            return reset * layer.before(moment, moment.block * lanes + lane)

        def keep(place: int, unit: tirx.Expr, value: tirx.Expr) -> tirx.Stmt:
            return store(layer.state, layer.kept(moment, place, unit), value)

        return sequence(
            [
                layer.multiply(moment, [0, 1], lambda k: layer.before(moment, k)),
                layer.for_units(
                    moment,
                    (lambda lane: f(layer.bounded(layer.total(moment, 0, lane))), lambda j, v: keep(UPDATE, j, v)),
                    (let_through, lambda j, v: keep(LET_THROUGH, j, v)),
                ),
            ]
        )

    def renew(moment: Moment) -> tirx.Stmt:
        def value(lane: tirx.Expr) -> tirx.Expr:
            unit = moment.block * lanes + lane
            fresh = g(layer.bounded(layer.total(moment, 2, lane)))
            update = load(layer.state, layer.kept(moment, UPDATE, unit))
            return fresh + update * (layer.before(moment, unit) - fresh)

        products = layer.multiply(moment, [2], lambda k: load(layer.state, layer.kept(moment, LET_THROUGH, k)))
        return sequence([products, layer.for_units(moment, (value, lambda j, v: layer.put(moment, j, v)))])

    return layer.definition("gru", [gate, renew])


@dataclass(frozen=True)
class LongShortTermMemory:
    """What an LSTM does with its gates.

    Attributes:
        activations: f, g and h, in ONNX's order.
        peepholes: Whether gates see the cell state.
        coupled: Whether the forget gate is one minus the input gate.
    """

    activations: tuple[Activation, Activation, Activation]
    peepholes: bool = False
    coupled: bool = False


def lstm(shapes: Recurrence, machine: Machine, cell: LongShortTermMemory) -> Definition:
    """An LSTM (ONNX operator LSTM), with gates i, o, f, c.

    it = f(x_i + H R_i + P_i . C), ft = f(x_f + H R_f + P_f . C), ct = g(x_c + H R_c), C' = ft . C + it . ct,
    ot = f(x_o + H R_o + P_o . C'), H' = ot . h(C').

    Its own inputs: the initial C, and packed peepholes (3, padded) if the cell has them. Its own output: Y_c.
    """
    layer, lanes, s = Layer(shapes, 4, machine), machine.lanes, shapes
    initial_c = parameter("initial_c", [s.directions, s.batch, s.hidden], "float32")
    peepholes = parameter("p", [3, padded_units(s.hidden, machine)], "float32")
    y_c = parameter("y_c", [s.directions, s.batch, s.hidden], "float32")
    f, g, h = cell.activations

    def step(moment: Moment) -> tirx.Stmt:
        def state(lane: tirx.Expr) -> tirx.Expr:
            return load(y_c, [s.direction, moment.sequence, moment.block * lanes + lane])

        def gate(index: int, lane: tirx.Expr) -> tirx.Expr:
            total = layer.total(moment, index, lane)
            if cell.peepholes and index < 3:
                total = total + load(peepholes, [index, moment.block * lanes + lane]) * state(lane)
            return layer.bounded(total)

        def next_c(lane: tirx.Expr) -> tirx.Expr:
            i = f(gate(0, lane))
            forget = 1.0 - i if cell.coupled else f(gate(2, lane))
            return forget * state(lane) + i * g(gate(3, lane))

        def next_h(lane: tirx.Expr) -> tirx.Expr:
            return f(gate(1, lane)) * h(state(lane))

        return sequence(
            [
                layer.multiply(moment, [0, 1, 2, 3], lambda k: layer.before(moment, k)),
                layer.for_units(
                    moment,
                    (next_c, lambda j, v: store(y_c, [s.direction, moment.sequence, j], v)),
                    (next_h, lambda j, v: layer.put(moment, j, v)),
                ),
            ]
        )

    return layer.definition(
        "lstm",
        [step],
        inputs=[initial_c, *([peepholes] if cell.peepholes else [])],
        outputs=[y_c],
        start=lambda b, j: store(y_c, [s.direction, b, j], load(initial_c, [s.direction, b, j])),
    )
