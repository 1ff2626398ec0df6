"""LSTM cells: the part of the layer that goes step by step.

What the inputs contribute is a matrix product over all time steps at once, and no business of these kernels. Here, for
each step, the previous hidden state is multiplied by the recurrent weights, vectors running over hidden units, and the
gates are applied. Weights are packed as [hidden][gate][unit], units padded to whole vectors, so that each previous unit
meets all gates of a block of units in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.expressions import vector_store
from lepton_compile.kernels.kernel import Definition, Machine
from lepton_compile.kernels.loops import (
    allocate,
    function,
    load,
    parallel,
    parameter,
    register,
    sequence,
    serial,
    store,
    vectorized,
)  # fmt: skip

Activation = Callable[[tirx.Expr], tirx.Expr]


@dataclass(frozen=True)
class Recurrence:
    """The shapes of one direction of a recurrent layer.

    Attributes:
        steps: Time steps.
        batch: Sequences.
        hidden: Hidden units.
        directions: Directions of the layer, whose outputs lie between each other.
        direction: Which of them this is.
        backward: Whether it goes from the last step to the first.
    """

    steps: int
    batch: int
    hidden: int
    directions: int
    direction: int
    backward: bool


def padded_units(hidden: int, machine: Machine) -> int:
    """Hidden units rounded up to whole vectors."""
    return -(-hidden // machine.lanes) * machine.lanes


def pack_recurrent(weights: npt.NDArray[np.float32], gates: int, machine: Machine) -> npt.NDArray[np.float32]:
    """Pack weights of shape (gates * hidden, inputs) as (inputs, gates, padded units)."""
    hidden = weights.shape[0] // gates
    packed = np.zeros((weights.shape[1], gates, padded_units(hidden, machine)), weights.dtype)
    packed[:, :, :hidden] = weights.reshape(gates, hidden, -1).transpose(2, 0, 1)
    return packed


def pack_gates(values: npt.NDArray[np.float32], gates: int, machine: Machine) -> npt.NDArray[np.float32]:
    """Pack one number per gate and unit, of shape (gates * hidden,), as (gates, padded units)."""
    hidden = values.shape[0] // gates
    packed = np.zeros((gates, padded_units(hidden, machine)), values.dtype)
    packed[:, :hidden] = values.reshape(gates, hidden)
    return packed


@dataclass(frozen=True)
class Cell:
    """What an LSTM cell does with its gates.

    Attributes:
        activations: f, g and h, in ONNX's order.
        peepholes: Whether gates see the cell state.
        clip: Bound on the inputs of the activations; None for none.
        coupled: Whether the forget gate is one minus the input gate.
    """

    activations: tuple[Activation, Activation, Activation]
    peepholes: bool = False
    clip: float | None = None
    coupled: bool = False


def lstm(shapes: Recurrence, cell: Cell, machine: Machine) -> Definition:
    """One direction of an LSTM.

    With gates i, o, f, c in ONNX's order, for each step t (ONNX operator LSTM):
    it = f(x_i + H R_i + P_i . C), ft = f(x_f + H R_f + P_f . C), ct = g(x_c + H R_c), C' = ft . C + it . ct,
    ot = f(x_o + H R_o + P_o . C'), H' = ot . h(C').

    Returns:
        A kernel over sequences. Inputs: x (steps, batch, gates * hidden), the inputs' contribution with both biases;
        packed recurrent weights (hidden, gates, padded); initial H and C (directions, batch, hidden); packed peepholes
        (3, padded) if the cell has them. Outputs: Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch,
        hidden), and room for two states (directions, batch, 2, hidden).
    """
    s, lanes = shapes, machine.lanes
    padded = padded_units(s.hidden, machine)
    x = parameter("x", [s.steps, s.batch, 4 * s.hidden], "float32")
    r = parameter("r", [s.hidden, 4, padded], "float32")
    initial_h = parameter("initial_h", [s.directions, s.batch, s.hidden], "float32")
    initial_c = parameter("initial_c", [s.directions, s.batch, s.hidden], "float32")
    p = parameter("p", [3, padded], "float32")
    y = parameter("y", [s.steps, s.directions, s.batch, s.hidden], "float32")
    y_h = parameter("y_h", [s.directions, s.batch, s.hidden], "float32")
    y_c = parameter("y_c", [s.directions, s.batch, s.hidden], "float32")
    state = parameter("state", [s.directions, s.batch, 2, s.hidden], "float32")
    f, g, h = cell.activations

    def units(b: tirx.Expr, t: tirx.Expr, now: tirx.Expr, block: tirx.Expr, only: tirx.Expr | None) -> tirx.Stmt:
        """New states of a block of units, or of only one of them, from the products in the registers."""
        width = lanes if only is None else 1

        def bounded(value: tirx.Expr) -> tirx.Expr:
            return value if cell.clip is None else vector_math.clamp(value, -cell.clip, cell.clip)

        def gate(index: int, peephole: int | None, lane: tirx.Expr) -> tirx.Expr:
            unit = block * lanes + lane
            total = load(x, [now, b, index * s.hidden + unit]) + load(products[index], [lane])
            if cell.peepholes and peephole is not None:
                total = total + load(p, [peephole, unit]) * load(y_c, [s.direction, b, unit])
            return bounded(total)

        def next_c(lane: tirx.Expr) -> tirx.Expr:
            i = f(gate(0, 0, lane))
            forget = 1.0 - i if cell.coupled else f(gate(2, 2, lane))
            return forget * load(y_c, [s.direction, b, block * lanes + lane]) + i * g(gate(3, None, lane))

        def next_h(lane: tirx.Expr) -> tirx.Expr:
            return f(gate(1, 1, lane)) * h(load(y_c, [s.direction, b, block * lanes + lane]))

        def keep(
            value: Callable[[tirx.Expr], tirx.Expr], put: Callable[[tirx.Expr, tirx.Expr], tirx.Stmt]
        ) -> tirx.Stmt:
            if only is None:
                return vector_store(width, value, put)
            return vector_store(1, lambda _: value(only), lambda _, v: put(only, v))

        following = tirx.floormod(t + 1, 2)
        return sequence(
            [
                keep(next_c, lambda lane, v: store(y_c, [s.direction, b, block * lanes + lane], v)),
                keep(next_h, lambda lane, v: store(state, [s.direction, b, following, block * lanes + lane], v)),
            ]
        )

    products = [register(f"product{q}", lanes) for q in range(4)]

    def step(b: tirx.Expr, t: tirx.Expr) -> tirx.Stmt:
        now = s.steps - 1 - t if s.backward else t

        def block_of(block: tirx.Expr) -> tirx.Stmt:
            clear = [
                vectorized(lanes, lambda lane, q=q: store(q, [lane], tirx.const(0, "float32")))  # type: ignore[misc]
                for q in products
            ]

            def add(k: tirx.Expr) -> tirx.Stmt:
                value = load(state, [s.direction, b, tirx.floormod(t, 2), k])
                return sequence(
                    vectorized(
                        lanes,
                        lambda lane, i=i, q=q: store(  # type: ignore[misc]
                            q, [lane], load(q, [lane]) + value * load(r, [k, i, block * lanes + lane])
                        ),
                    )
                    for i, q in enumerate(products)
                )

            return sequence([*clear, serial(s.hidden, add, "k"), gates_of(b, t, now, block)])

        def gates_of(b: tirx.Expr, t: tirx.Expr, now: tirx.Expr, block: tirx.Expr) -> tirx.Stmt:
            if s.hidden % lanes == 0:
                return units(b, t, now, block, None)
            left = tirx.min(lanes, s.hidden - block * lanes)
            return serial(left, lambda lane: units(b, t, now, block, lane), "lane")

        copy_y = serial(
            s.hidden,
            lambda j: store(y, [now, s.direction, b, j], load(state, [s.direction, b, tirx.floormod(t + 1, 2), j])),
            "j",
        )
        return sequence([serial(padded // lanes, block_of, "units"), copy_y])

    def sequence_of(b: tirx.Expr) -> tirx.Stmt:
        start = serial(
            s.hidden,
            lambda j: sequence(
                [
                    store(state, [s.direction, b, 0, j], load(initial_h, [s.direction, b, j])),
                    store(y_c, [s.direction, b, j], load(initial_c, [s.direction, b, j])),
                ]
            ),
            "j",
        )
        end = serial(
            s.hidden,
            lambda j: store(y_h, [s.direction, b, j], load(state, [s.direction, b, s.steps % 2, j])),
            "j",
        )
        return allocate(products, [start, serial(s.steps, lambda t: step(b, t), "t"), end])

    inputs = [x, r, initial_h, initial_c, *([p] if cell.peepholes else [])]
    return Definition(
        function=function([*inputs, y, y_h, y_c, state], parallel(s.batch, sequence_of)),
        inputs=len(inputs),
        blocks=s.batch,
        family="lstm",
        operations=s.steps * s.batch * s.hidden * 4 * (2 * s.hidden + 30),
    )
