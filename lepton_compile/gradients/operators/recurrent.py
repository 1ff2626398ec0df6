"""LSTM and GRU, step by step.

ONNX's gates stand in the order i, o, f, c (LSTM) and z, r, h (GRU), PyTorch's in another, and PyTorch's own layers know
neither peepholes nor a reset gate that comes before the product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lepton_compile.gradients.registry import Operation, operator

# One step: the input's part of all gates, and the states before, to the states after, of which the first is the output.
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@operator("LSTM")
def lstm(
    node: Operation,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997)."""
    _refuse_rarities(node, ["Sigmoid", "Tanh", "Tanh"], lengths)
    node.require("input_forget", 0)

    def step_of(direction: int) -> Step:
        ends = None if peepholes is None else peepholes[direction].chunk(3)

        def step(gates: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h, c = states
            i, o, f, g = (gates + h @ r[direction].T).chunk(4, -1)
            if ends is not None:
                i, f = i + ends[0] * c, f + ends[2] * c
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            o = o if ends is None else o + ends[1] * c
            return torch.sigmoid(o) * torch.tanh(c), c

        return step

    bias = None if b is None else sum(b.chunk(2, -1), b.new_zeros(()))
    return _unrolled(node, x, w, bias, (hidden, cell), step_of)


@operator("GRU")
def gru(
    node: Operation,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit (Cho et al., 2014); the reset gate before the product, or behind it."""
    _refuse_rarities(node, ["Sigmoid", "Tanh"], lengths)
    size = r.shape[-1]
    inner, outer = (None, None) if b is None else b.chunk(2, -1)

    def step_of(direction: int) -> Step:
        gates_r, candidate_r = r[direction][: 2 * size], r[direction][2 * size :]
        zero = r.new_zeros(3 * size)
        gates_b, candidate_b = torch.split(zero if outer is None else outer[direction], [2 * size, size])

        def step(gates: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = states
            z, reset = torch.sigmoid(gates[..., : 2 * size] + h @ gates_r.T + gates_b).chunk(2, -1)
            if node.attribute("linear_before_reset", 0):
                candidate = reset * (h @ candidate_r.T + candidate_b)
            else:
                candidate = (reset * h) @ candidate_r.T + candidate_b
            candidate = torch.tanh(gates[..., 2 * size :] + candidate)
            return ((1 - z) * candidate + z * h,)

        return step

    return _unrolled(node, x, w, inner, (hidden,), step_of)


def _refuse_rarities(node: Operation, activations: list[str], lengths: Tensor | None) -> None:
    node.require("layout", 0)
    node.require("direction", "forward", "reverse", "bidirectional")
    if lengths is not None:
        node.refuse("sequences have lengths of their own")
    if node.attribute("clip") is not None:
        node.refuse("it clips")
    directions = 2 if node.attribute("direction") == "bidirectional" else 1
    if node.attribute("activations", activations * directions) != activations * directions:
        node.refuse(f"its activations are {', '.join(node.attribute('activations'))}")


def _unrolled(
    node: Operation,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    starts: tuple[Tensor | None, ...],
    step_of: Callable[[int], Step],
) -> tuple[Tensor, ...]:
    """All outputs and the last states, of all directions."""
    hidden = int(node.attribute("hidden_size"))
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    outputs, lasts = [], []
    for number, reverse in enumerate(backwards[node.attribute("direction", "forward")]):
        zero = x.new_zeros(x.shape[1], hidden)
        states = tuple(zero if start is None else start[number] for start in starts)
        gates = x @ w[number].T
        gates = gates if bias is None else gates + bias[number]
        step, made = step_of(number), []
        for moment in reversed(range(len(x))) if reverse else range(len(x)):
            states = step(gates[moment], states)
            made.append(states[0])
        outputs.append(torch.stack(made[::-1] if reverse else made))
        lasts.append(states)
    return torch.stack(outputs, 1), *(torch.stack(each) for each in zip(*lasts, strict=True))
