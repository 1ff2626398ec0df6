"""LSTM: one matrix product for what the inputs contribute, one kernel for each direction's recurrence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import te, tirx

from lepton_compile.kernels import recurrent, vector_math
from lepton_compile.kernels.kernel import shape_of
from lepton_compile.kernels.layout import PLAIN
from lepton_compile.kernels.recurrent import Activation, Cell, Recurrence, pack_gates, pack_recurrent
from lepton_compile.lowering.anchors.products import product
from lepton_compile.lowering.anchors.registry import anchor
from lepton_compile.lowering.nodes import Array
from lepton_compile.lowering.operators import Operation
from lepton_compile.lowering.program import Buffer
from lepton_compile.lowering.region import Scope

GATES = 4


@anchor("LSTM")
def lstm(
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
    """LSTM with constant weights; forward, reverse or bidirectional; sequences of equal length."""
    weights, recurrent_weights = scope.literal_or_known(w), scope.literal_or_known(r)
    if str(x.dtype) != "float32" or weights is None or recurrent_weights is None:
        raise operation.unsupported("only float32 with constant weights is supported")
    swapped = bool(operation.attribute("layout", 0))
    if swapped:
        original = x
        x = te.compute((x.shape[1], x.shape[0], x.shape[2]), lambda t, n, i: original(n, t, i), name="steps_first")
    steps, batch, _ = shape_of(x)
    directions, _, hidden = recurrent_weights.shape
    lengths = scope.literal_or_known(sequence_lens) if sequence_lens is not None else None
    if sequence_lens is not None and (lengths is None or np.any(lengths != steps)):
        raise operation.unsupported("sequences of different lengths (sequence_lens) are not supported")
    biases = known_or_zeros(scope, operation, b, (directions, 2 * GATES * hidden), "B")
    peepholes = known_or_zeros(scope, operation, p, (directions, 3 * hidden), "P")
    named = activations(operation, directions, ("Sigmoid", "Tanh", "Tanh"))

    builder = scope.builder
    zeros = np.zeros((directions, batch, hidden), np.float32)
    starts = [_start(scope, start, zeros, swapped) for start in (initial_h, initial_c)]
    y = builder.buffer([steps, directions, batch, hidden], "float32")
    y_h, y_c = (builder.buffer([directions, batch, hidden], "float32") for _ in range(2))
    state = builder.buffer([directions, batch, 2, hidden], "float32")
    scope.to_memory(x)
    kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    for direction, backward in enumerate(kinds[operation.attribute("direction", "forward")]):
        contribution = product(scope, x, scope.constant(np.ascontiguousarray(weights[direction].T)))
        bias = biases[direction].reshape(2, -1).sum(axis=0, dtype=np.float64).astype(np.float32)
        spread = scope.constant(bias.reshape(1, 1, -1))
        gates = _plus(contribution, spread)
        cell = Cell(
            activations=named[direction],
            peepholes=bool(peepholes[direction].any()),
            clip=operation.attribute("clip"),
            coupled=bool(operation.attribute("input_forget", 0)),
        )
        shapes = Recurrence(steps, batch, hidden, directions, direction, backward)
        packed = builder.weight(pack_recurrent(recurrent_weights[direction], GATES, builder.machine))
        inputs: list[Buffer] = [scope.in_layout(gates, PLAIN), packed, *starts]
        if cell.peepholes:
            inputs.append(builder.weight(pack_gates(peepholes[direction], 3, builder.machine)))
        definition = recurrent.lstm(shapes, cell, builder.machine)
        builder.call(definition, inputs, [y, y_h, y_c, state], scope.nodes)

    results = [scope.tensor_of(buffer) for buffer in (y, y_h, y_c)]
    if swapped:
        whole = te.compute((batch, steps, directions, hidden), lambda n, t, d, j: results[0](t, d, n, j), name="Y")
        return (whole, *(_batch_first(state) for state in results[1:]))
    return tuple(results)


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


def activations(
    operation: Operation, directions: int, default: Sequence[str]
) -> list[tuple[Activation, Activation, Activation]]:
    """The activation functions of each direction."""
    names = list(operation.attribute("activations", [*default] * directions))
    alphas = list(operation.attribute("activation_alpha", []))
    betas = list(operation.attribute("activation_beta", []))
    functions = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise operation.unsupported(f"the activation function {name} is not supported")
        function, wants_alpha, wants_beta = _ACTIVATIONS[name]
        alpha = alphas.pop(0) if wants_alpha is not None and alphas else wants_alpha
        beta = betas.pop(0) if wants_beta is not None and betas else wants_beta
        functions.append(lambda v, f=function, a=alpha, b=beta: f(v, a, b))
    return [(functions[3 * d], functions[3 * d + 1], functions[3 * d + 2]) for d in range(directions)]


def _plus(product: te.Tensor, bias: te.Tensor) -> te.Tensor:
    return te.compute(product.shape, lambda t, n, j: product(t, n, j) + bias(0, 0, j), name="gates")


def _batch_first(state: te.Tensor) -> te.Tensor:
    directions, batch, hidden = state.shape
    return te.compute((batch, directions, hidden), lambda n, d, j: state(d, n, j), name="state")


def _start(scope: Scope, start: te.Tensor | None, zeros: Array, swapped: bool) -> Buffer:
    if start is None:
        return scope.builder.weight(zeros)
    if swapped:
        return scope.in_layout(te.compute(zeros.shape, lambda d, n, j: start(n, d, j), name="start"), PLAIN)
    return scope.in_layout(start, PLAIN)


def _constant(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


# Each with its default alpha and beta, None where it takes none (ONNX operator LSTM).
_ACTIVATIONS = {
    "Sigmoid": (lambda v, a, b: vector_math.sigmoid(v), None, None),
    "Tanh": (lambda v, a, b: vector_math.tanh(v), None, None),
    "Relu": (lambda v, a, b: tirx.max(v, _constant(0.0)), None, None),
    "Affine": (lambda v, a, b: v * a + b, 1.0, 0.0),
    "LeakyRelu": (lambda v, a, b: tirx.Select(v < 0, v * a, v), 0.01, None),
    "ThresholdedRelu": (lambda v, a, b: tirx.Select(v > a, v, _constant(0.0)), 1.0, None),
    "ScaledTanh": (lambda v, a, b: vector_math.tanh(v * b) * a, 1.0, 1.0),
    "HardSigmoid": (lambda v, a, b: vector_math.clamp(v * a + b, 0.0, 1.0), 0.2, 0.5),
    "Elu": (lambda v, a, b: tirx.Select(v < 0, (vector_math.exp(v) - 1.0) * a, v), 1.0, None),
    "Softsign": (lambda v, a, b: v / (tirx.abs(v) + 1.0), None, None),
    "Softplus": (lambda v, a, b: vector_math.softplus(v), None, None),
}
