"""Recurrent layers: the part that goes step by step, and what all cells share of it.

What the inputs contribute is a matrix product over all time steps at once, and no business of these kernels. Here, for
each step, the previous hidden state is multiplied by the recurrent weights, vectors running over hidden units, and the
gates are applied. Weights are packed as [hidden][gate][unit], units padded to whole vectors, so that each previous unit
meets all gates of a block of units in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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

Number = TypeVar("Number", bound=np.generic)
Activation = Callable[[tirx.Expr], tirx.Expr]
LaneValue = Callable[[tirx.Expr], tirx.Expr]


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
        varying: Whether the sequences are of different lengths; outputs after the end of one are zeros.
        clip: Bound on the inputs of the activations; None for none.
        weights: The type of the recurrent weights in memory; integers have a scale for each unit of each gate.
    """

    steps: int
    batch: int
    hidden: int
    directions: int
    direction: int
    backward: bool
    varying: bool = False
    clip: float | None = None
    weights: str = "float32"

    @property
    def scaled(self) -> bool:
        """Whether the recurrent weights have scales."""
        return self.weights != "float32"


def padded_units(hidden: int, machine: Machine) -> int:
    """Hidden units rounded up to whole vectors."""
    return -(-hidden // machine.lanes) * machine.lanes


def pack_recurrent(weights: npt.NDArray[Number], gates: int, machine: Machine) -> npt.NDArray[Number]:
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
class Moment:
    """Where a cell is: a block of units of one sequence at one step.

    Attributes:
        sequence: Which sequence.
        step: How many steps were done before.
        time: The time that the step is at.
        block: Which block of units.
    """

    sequence: tirx.Expr
    step: tirx.Expr
    time: tirx.Expr
    block: tirx.Expr


class Layer:
    """The buffers and loops that cells of all kinds share.

    Attributes:
        x: What the inputs contribute (steps, batch, gates * hidden), with the biases.
        weights: Packed recurrent weights (hidden, gates, padded).
        scales: What they are multiplied by (gates, padded), if they are integers.
        initial: Initial hidden state (directions, batch, hidden).
        lengths: Length of every sequence (batch), if they vary.
        y: Hidden states (steps, directions, batch, hidden).
        y_h: The last ones (directions, batch, hidden).
        state: Room for the hidden state before a step and after it, and for what else a cell keeps
            (directions, batch, 2 + kept, hidden).
        products: Registers that the products of a block of units with each gate's weights are gathered in.
    """

    def __init__(self, shapes: Recurrence, gates: int, machine: Machine, kept: int = 0) -> None:
        self.shapes, self.gates, self.machine = shapes, gates, machine
        s = shapes
        self.x = parameter("x", [s.steps, s.batch, gates * s.hidden], "float32")
        padded = padded_units(s.hidden, machine)
        self.weights = parameter("r", [s.hidden, gates, padded], s.weights)
        self.scales = parameter("scales", [gates, padded], "float32")
        self.initial = parameter("initial_h", [s.directions, s.batch, s.hidden], "float32")
        self.lengths = parameter("lengths", [s.batch], "int32")
        self.y = parameter("y", [s.steps, s.directions, s.batch, s.hidden], "float32")
        self.y_h = parameter("y_h", [s.directions, s.batch, s.hidden], "float32")
        self.state = parameter("state", [s.directions, s.batch, 2 + kept, s.hidden], "float32")
        self.products = [register(f"product{q}", machine.lanes) for q in range(gates)]

    def kept(self, moment: Moment, place: int, unit: tirx.Expr) -> list[tirx.Expr | int]:
        """Where in `state` a cell keeps a number of its own for a unit."""
        return [self.shapes.direction, moment.sequence, 2 + place, unit]

    def before(self, moment: Moment, unit: tirx.Expr) -> tirx.Expr:
        """A unit's hidden state before this step."""
        return load(self.state, [self.shapes.direction, moment.sequence, tirx.floormod(moment.step, 2), unit])

    def put(self, moment: Moment, unit: tirx.Expr, value: tirx.Expr) -> tirx.Stmt:
        """Make a number the unit's hidden state after this step."""
        following = tirx.floormod(moment.step + 1, 2)
        return store(self.state, [self.shapes.direction, moment.sequence, following, unit], value)

    def total(self, moment: Moment, gate: int, lane: tirx.Expr) -> tirx.Expr:
        """What the inputs and the gathered product contribute to a gate of a unit."""
        unit = moment.block * self.machine.lanes + lane
        contributed = load(self.x, [moment.time, moment.sequence, gate * self.shapes.hidden + unit])
        return contributed + self.product(moment, gate, lane)

    def product(self, moment: Moment, gate: int, lane: tirx.Expr) -> tirx.Expr:
        """The gathered product of a gate of a unit."""
        gathered = load(self.products[gate], [lane])
        if not self.shapes.scaled:
            return gathered
        return gathered * load(self.scales, [gate, moment.block * self.machine.lanes + lane])

    def bounded(self, value: tirx.Expr) -> tirx.Expr:
        """A number within the clip."""
        clip = self.shapes.clip
        return value if clip is None else vector_math.clamp(value, -clip, clip)

    def multiply(self, moment: Moment, gates: Sequence[int], value: Callable[[tirx.Expr], tirx.Expr]) -> tirx.Stmt:
        """Gather the products of a vector with the weights of some gates, for a block of units."""
        lanes = self.machine.lanes
        clear = [
            vectorized(lanes, lambda lane, q=q: store(self.products[q], [lane], tirx.const(0, "float32")))  # type: ignore[misc]
            for q in gates
        ]

        def add(k: tirx.Expr) -> tirx.Stmt:
            def gathered(gate: int, lane: tirx.Expr) -> tirx.Expr:
                weight = load(self.weights, [k, gate, moment.block * lanes + lane]).astype("float32")
                return load(self.products[gate], [lane]) + value(k) * weight

            return sequence(
                vectorized(lanes, lambda lane, q=q: store(self.products[q], [lane], gathered(q, lane)))  # type: ignore[misc]
                for q in gates
            )

        return sequence([*clear, serial(self.shapes.hidden, add, "k")])

    def for_units(
        self, moment: Moment, *parts: tuple[LaneValue, Callable[[tirx.Expr, tirx.Expr], tirx.Stmt]]
    ) -> tirx.Stmt:
        """Compute numbers of every unit of a block, one after the other, from its lane, and store each at its unit."""
        lanes, hidden = self.machine.lanes, self.shapes.hidden
        first = moment.block * lanes
        if hidden % lanes == 0:
            return sequence(
                vector_store(lanes, value, lambda lane, v, put=put: put(first + lane, v))  # type: ignore[misc]
                for value, put in parts
            )

        def single(lane: tirx.Expr) -> tirx.Stmt:
            return sequence(
                vector_store(1, lambda _, value=value: value(lane), lambda _, v, put=put: put(first + lane, v))  # type: ignore[misc]
                for value, put in parts
            )

        return serial(tirx.min(lanes, hidden - first), single, "lane")

    def definition(
        self,
        family: str,
        phases: Sequence[Callable[[Moment], tirx.Stmt]],
        *,
        inputs: Sequence[tirx.Buffer] = (),
        outputs: Sequence[tirx.Buffer] = (),
        start: Callable[[tirx.Expr, tirx.Expr], tirx.Stmt] | None = None,
    ) -> Definition:
        """The kernel over sequences.

        Args:
            family: Name of the kernel family.
            phases: What is done in a step for every block of units, one phase after the other.
            inputs: The cell's own inputs, after x, weights, their scales and initial state; the lengths follow.
            outputs: The cell's own outputs, between y_h and state.
            start: What is done for a sequence and a unit before the first step.
        """
        s, lanes = self.shapes, self.machine.lanes
        blocks = padded_units(s.hidden, self.machine) // lanes

        def sequence_of(b: tirx.Expr) -> tirx.Stmt:
            steps = load(self.lengths, [b]) if s.varying else s.steps

            def step(t: tirx.Expr) -> tirx.Stmt:
                time = steps - 1 - t if s.backward else t
                done = [
                    serial(blocks, lambda block, phase=phase: phase(Moment(b, t, time, block)), "units")  # type: ignore[misc]
                    for phase in phases
                ]
                following = tirx.floormod(t + 1, 2)
                copied = serial(
                    s.hidden,
                    lambda j: store(
                        self.y, [time, s.direction, b, j], load(self.state, [s.direction, b, following, j])
                    ),
                    "j",
                )
                return sequence([*done, copied])

            def begin(j: tirx.Expr) -> tirx.Stmt:
                initial = load(self.initial, [s.direction, b, j])
                own = [start(b, j)] if start else []
                return sequence([store(self.state, [s.direction, b, 0, j], initial), *own])

            def end(j: tirx.Expr) -> tirx.Stmt:
                last = tirx.floormod(steps, 2)
                return store(self.y_h, [s.direction, b, j], load(self.state, [s.direction, b, last, j]))

            def padding(t: tirx.Expr) -> tirx.Stmt:
                zero = tirx.const(0, "float32")
                return serial(s.hidden, lambda j: store(self.y, [steps + t, s.direction, b, j], zero), "j")

            rest = [serial(s.steps - steps, padding, "rest")] if s.varying else []
            loops = [serial(s.hidden, begin, "j"), serial(steps, step, "t"), serial(s.hidden, end, "j"), *rest]
            return allocate(self.products, loops)

        weights = [self.weights, *([self.scales] if s.scaled else [])]
        given = [self.x, *weights, self.initial, *inputs, *([self.lengths] if s.varying else [])]
        made = [self.y, self.y_h, *outputs, self.state]
        return Definition(
            function=function([*given, *made], parallel(s.batch, sequence_of)),
            inputs=len(given),
            blocks=s.batch,
            family=family,
            operations=s.steps * s.batch * s.hidden * self.gates * (2 * s.hidden + 30),
        )
