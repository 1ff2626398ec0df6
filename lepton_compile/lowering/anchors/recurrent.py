"""RNN, GRU and LSTM: one matrix product for what the inputs contribute, one kernel for each direction's recurrence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import vector_math
from lepton_compile.kernels.cells import LongShortTermMemory, gru, lstm, rnn
from lepton_compile.kernels.kernel import Definition, Machine, shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.recurrent import Activation, Recurrence, pack_gates, pack_recurrent
from lepton_compile.lowering.anchors.products import product
from lepton_compile.lowering.anchors.quantized_weights import Weights, part_of, short_weights, small_weights
from lepton_compile.lowering.anchors.registry import anchor
from lepton_compile.lowering.anchors.weight_only_product import weight_only_product
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Quantized, Scope


@dataclass(frozen=True)
class Cell:
    """What is particular to one direction of a layer.

    Attributes:
        kernel: From the shapes to the kernel of the recurrence.
        bias: What is added to the inputs' contribution, (gates * hidden).
        own: Inputs of the kernel beside those that all have.
    """

    kernel: Callable[[Recurrence, Machine], Definition]
    bias: Array
    own: tuple[Buffer, ...] = ()


@anchor("RNN")
def rnn_layer(
    scope: Scope,
    operation: Operation,
    x: te.Tensor,
    w: te.Tensor,
    r: te.Tensor,
    b: te.Tensor | None = None,
    sequence_lens: te.Tensor | None = None,
    initial_h: te.Tensor | None = None,
) -> tuple[te.Tensor, ...]:
    """RNN with constant weights."""
    layer = _Layer(scope, operation, 1, x, w, r, b, sequence_lens)
    cells = []
    for direction, (f,) in enumerate(activations(operation, layer.directions, ("Tanh",))):
        bias = layer.biases[direction].sum(axis=0)
        cells.append(Cell(functools.partial(rnn, f=f), bias))
    return layer.lowered(cells, initial_h)


@anchor("GRU")
def gru_layer(
    scope: Scope,
    operation: Operation,
    x: te.Tensor,
    w: te.Tensor,
    r: te.Tensor,
    b: te.Tensor | None = None,
    sequence_lens: te.Tensor | None = None,
    initial_h: te.Tensor | None = None,
) -> tuple[te.Tensor, ...]:
    """GRU with constant weights."""
    layer = _Layer(scope, operation, 3, x, w, r, b, sequence_lens)
    linear = bool(operation.attribute("linear_before_reset", 0))
    cells = []
    for direction, (f, g) in enumerate(activations(operation, layer.directions, ("Sigmoid", "Tanh"))):
        of_inputs, of_state = layer.biases[direction]
        apart = of_state.copy()
        apart[: 2 * layer.hidden] = 0  # only the last gate's bias is inside the product with the reset gate
        bias = of_inputs + (of_state - apart if linear else of_state)
        own = (scope.builder.weight(pack_gates(apart, 3, scope.builder.machine)[2]),) if linear else ()
        cells.append(Cell(functools.partial(gru, f=f, g=g, linear_before_reset=linear), bias, own))
    return layer.lowered(cells, initial_h)


@anchor("LSTM")
def lstm_layer(
    scope: Scope,
    operation: Operation,
    x: te.Tensor,
    w: te.Tensor,
    r: te.Tensor,
    b: te.Tensor | None = None,
    sequence_lens: te.Tensor | None = None,
    initial_h: te.Tensor | None = None,
    initial_c: te.Tensor | None = None,
    p: te.Tensor | None = None,
) -> tuple[te.Tensor, ...]:
    """LSTM with constant weights."""
    layer = _Layer(scope, operation, 4, x, w, r, b, sequence_lens)
    peepholes = known_or_zeros(scope, operation, p, (layer.directions, 3 * layer.hidden), "P")
    start = layer.start(initial_c)
    cells = []
    for direction, (f, g, h) in enumerate(activations(operation, layer.directions, ("Sigmoid", "Tanh", "Tanh"))):
        cell = LongShortTermMemory(
            activations=(f, g, h),
            peepholes=bool(peepholes[direction].any()),
            coupled=bool(operation.attribute("input_forget", 0)),
        )
        own = [start]
        if cell.peepholes:
            own.append(scope.builder.weight(pack_gates(peepholes[direction], 3, scope.builder.machine)))
        bias = layer.biases[direction].sum(axis=0)
        cells.append(Cell(functools.partial(lstm, cell=cell), bias, tuple(own)))
    return layer.lowered(cells, initial_h, more=1)


class _Layer:
    """What recurrent layers of all kinds share: sequences of any length, any directions, either order of the axes."""

    def __init__(
        self,
        scope: Scope,
        operation: Operation,
        gates: int,
        x: te.Tensor,
        w: te.Tensor,
        r: te.Tensor,
        b: te.Tensor | None,
        sequence_lens: te.Tensor | None,
    ) -> None:
        weights, recurrent = scope.literal_or_known(w), scope.literal_or_known(r)
        if str(x.dtype) != "float32" or weights is None or recurrent is None:
            raise operation.unsupported("only float32 with constant weights is supported")
        self.scope, self.operation, self.gates = scope, operation, gates
        self.weights, self.recurrent = weights, recurrent
        self.stored = scope.quantized(w)
        self.short = [self._short(scope.quantized(r), direction) for direction in range(len(recurrent))]
        self.batch_first = bool(operation.attribute("layout", 0))
        self.x = _swapped(x) if self.batch_first else x
        self.steps, self.batch, _ = shape_of(self.x)
        self.directions, _, self.hidden = recurrent.shape
        biases = known_or_zeros(scope, operation, b, (self.directions, 2 * gates * self.hidden), "B")
        self.biases = biases.reshape(self.directions, 2, gates * self.hidden)
        known = scope.literal_or_known(sequence_lens) if sequence_lens is not None else None
        self.lengths = None if known is not None and np.all(known == self.steps) else sequence_lens

    def start(self, given: te.Tensor | None) -> Buffer:
        """An initial state, (directions, batch, hidden)."""
        if given is None:
            return self.scope.builder.weight(np.zeros((self.directions, self.batch, self.hidden), np.float32))
        return self.scope.in_layout(_swapped(given) if self.batch_first else given, PLAIN)

    def contribution(self, direction: int) -> te.Tensor:
        """What the inputs contribute to the gates of a direction, without the bias."""
        scope, weights = self.scope, self.weights[direction]
        if self.stored is not None:
            summed = weight_only_product(scope, self.x, part_of(scope, self.stored, direction), transposed_right=True)
            if summed is not None:
                return summed
        return product(scope, self.x, scope.constant(np.ascontiguousarray(weights.T)))

    def recurrent_weights(self, direction: int) -> list[Buffer]:
        """The packed recurrent weights of a direction, and their scales if they are integers."""
        builder, short = self.scope.builder, self.short[direction]
        values = self.recurrent[direction] if short is None else short.values
        packed = [builder.weight(pack_recurrent(values, self.gates, builder.machine))]
        if short is not None:
            packed.append(builder.weight(pack_gates(short.scales, self.gates, builder.machine)))
        return packed

    def _short(self, stored: Quantized | None, direction: int) -> Weights | None:
        """Recurrent weights as integers: faster where each step would read float32 from beyond the caches."""
        if stored is None:
            return None
        large = self.recurrent[direction].nbytes > self.scope.builder.machine.l2_bytes
        part = self.scope.quantized(part_of(self.scope, stored, direction))
        return short_weights(self.scope, part, 0) if large else small_weights(self.scope, part, 0)

    def lowered(self, cells: Sequence[Cell], initial: te.Tensor | None, more: int = 0) -> tuple[te.Tensor, ...]:
        """Emit the layer; Y, Y_h, and as many more outputs of Y_h's shape as its cells have."""
        scope, builder = self.scope, self.scope.builder
        last = [self.directions, self.batch, self.hidden]
        y = builder.buffer([self.steps, *last], "float32")
        finals = [builder.buffer(last, "float32") for _ in range(1 + more)]
        start = self.start(initial)
        lengths = [scope.in_layout(self.lengths, PLAIN)] if self.lengths is not None else []
        scope.to_memory(self.x)
        kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        for direction, backward in enumerate(kinds[self.operation.attribute("direction", "forward")]):
            cell = cells[direction]
            contribution = self.contribution(direction)
            spread = scope.constant(cell.bias.astype(np.float32).reshape(1, 1, -1))
            gates = scope.in_layout(_plus(contribution, spread), PLAIN)
            shapes = Recurrence(
                self.steps,
                self.batch,
                self.hidden,
                self.directions,
                direction,
                backward,
                varying=self.lengths is not None,
                clip=self.operation.attribute("clip"),
                weights="float32" if (short := self.short[direction]) is None else short.values.dtype.name,
            )
            definition = cell.kernel(shapes, builder.machine)
            room = builder.buffer([int(size) for size in definition.function.params[-1].shape], "float32")
            inputs = [gates, *self.recurrent_weights(direction), start, *cell.own, *lengths]
            builder.call(definition, inputs, [y, *finals, room], scope.nodes)
        whole, *states = (scope.tensor_of(buffer) for buffer in (y, *finals))
        if not self.batch_first:
            return (whole, *states)
        shape = (self.batch, self.steps, self.directions, self.hidden)
        return (te.compute(shape, lambda n, t, d, j: whole(t, d, n, j), name="Y"), *map(_swapped, states))


def known_or_zeros(
    scope: Scope, operation: Operation, tensor: te.Tensor | None, shape: Sequence[int], name: str
) -> Array:
    """An optional constant, zeros where it is missing."""
    if tensor is None:
        return np.zeros(shape, np.float32)
    values = scope.literal_or_known(tensor)
    if values is None:
        raise operation.unsupported(f"{name} must be a constant")
    return values


def activations(operation: Operation, directions: int, default: Sequence[str]) -> list[tuple[Activation, ...]]:
    """The activation functions of each direction; as many as there are in `default`."""
    names = list(operation.attribute("activations", [*default] * directions))
    alphas = list(operation.attribute("activation_alpha", []))
    betas = list(operation.attribute("activation_beta", []))
    functions = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise operation.unsupported(f"the activation function {name} is not supported")
        function, wants_alpha, wants_beta = _ACTIVATIONS[name.lower()]
        alpha = alphas.pop(0) if wants_alpha is not None and alphas else wants_alpha
        beta = betas.pop(0) if wants_beta is not None and betas else wants_beta
        functions.append(lambda v, f=function, a=alpha, b=beta: f(v, a, b))
    count = len(default)
    return [tuple(functions[count * d : count * (d + 1)]) for d in range(directions)]


def _plus(product: te.Tensor, bias: te.Tensor) -> te.Tensor:
    return te.compute(product.shape, lambda t, n, j: product(t, n, j) + bias(0, 0, j), name="gates")


def _swapped(x: te.Tensor) -> te.Tensor:
    """The same with the first two of three axes swapped."""
    first, second, last = x.shape
    return te.compute((second, first, last), lambda i, j, k: x(j, i, k), name="swapped")


def _constant(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


# Each with its default alpha and beta, None where it takes none (ONNX operators RNN, GRU and LSTM). Names are matched
# in any case, as onnxruntime does.
_ACTIVATIONS = {
    "sigmoid": (lambda v, a, b: vector_math.sigmoid(v), None, None),
    "tanh": (lambda v, a, b: vector_math.tanh(v), None, None),
    "relu": (lambda v, a, b: tirx.max(v, _constant(0.0)), None, None),
    "affine": (lambda v, a, b: v * a + b, 1.0, 0.0),
    "leakyrelu": (lambda v, a, b: tirx.Select(v < 0, v * a, v), 0.01, None),
    "thresholdedrelu": (lambda v, a, b: tirx.Select(v > a, v, _constant(0.0)), 1.0, None),
    "scaledtanh": (lambda v, a, b: vector_math.tanh(v * b) * a, 1.0, 1.0),
    "hardsigmoid": (lambda v, a, b: vector_math.clamp(v * a + b, 0.0, 1.0), 0.2, 0.5),
    "elu": (lambda v, a, b: tirx.Select(v < 0, (vector_math.exp(v) - 1.0) * a, v), 1.0, None),
    "softsign": (lambda v, a, b: v / (tirx.abs(v) + 1.0), None, None),
    "softplus": (lambda v, a, b: vector_math.softplus(v), None, None),
}
