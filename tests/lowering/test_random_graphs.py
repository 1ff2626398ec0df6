"""Random small networks: whatever stands next to whatever, the answer is onnxruntime's."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from lepton_compile.lowering import in_place

Shape = tuple[int, ...]


class Network:
    """A model that grows by random operators on its latest tensors."""

    def __init__(self, model, seed: int, sizes: Sequence[Shape] = ((1, 2), (3, 16, 21), (1, 6, 9), (1, 7, 16))) -> None:
        self.model, self.random = model, random.Random(seed)
        shape = tuple(map(self.random.choice, sizes))
        self.tensors: dict[str, Shape] = {model.input(*shape): shape}

    def grow(self, steps: Sequence[str] = ()) -> None:
        """Add an operator: one of `steps`, methods of this class, or any."""
        name = self.random.choice(list(self.tensors)[-4:])
        step: Callable[[str, Shape], tuple[str, Shape] | None] = self.random.choice(
            [getattr(self, step) for step in steps]
            or [self.convolve, self.convolve, self.slide, self.activate, self.combine, self.concatenate, self.broadcast,
             self.reshape, self.transpose, self.normalise, self.reduce, self.multiply, self.cut, self.enlarge]
        )  # fmt: skip
        made = step(name, self.tensors[name])
        if made:
            self.tensors[made[0]] = made[1]

    def convolve(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) != 4:
            return None
        outputs, kernel = self.random.choice((5, 16, 20)), self.random.choice((1, 3))
        weight = self.model.weight(outputs, shape[1], kernel, kernel)
        return self.model.node("Conv", x, weight, pads=[kernel // 2] * 4), (shape[0], outputs, *shape[2:])

    def slide(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) != 4 or min(shape[1:]) < 2:
            return None
        if self.random.random() < 0.5:
            weight = self.model.weight(shape[1], 1, 3, 3)
            return self.model.node("Conv", x, weight, pads=[1] * 4, group=shape[1]), shape
        pool = self.random.choice(("MaxPool", "AveragePool"))
        made = self.model.node(pool, x, kernel_shape=[2, 2], strides=[2, 2])
        return made, (*shape[:2], shape[2] // 2, shape[3] // 2)

    def activate(self, x: str, shape: Shape) -> tuple[str, Shape]:
        return self.model.node(self.random.choice(("Relu", "Sigmoid", "HardSwish", "Neg", "Tanh")), x), shape

    def combine(self, x: str, shape: Shape) -> tuple[str, Shape]:
        other = self.random.choice([name for name, size in self.tensors.items() if size == shape])
        return self.model.node(self.random.choice(("Add", "Mul", "Sub", "Max")), x, other), shape

    def concatenate(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) < 2:
            return None
        fitting = [
            name for name, size in self.tensors.items() if (size[:1], size[2:]) == (shape[:1], shape[2:]) and size[1:]
        ]
        other = self.random.choice(fitting)
        made = self.model.node("Concat", x, other, axis=1)
        return made, (shape[0], shape[1] + self.tensors[other][1], *shape[2:])

    def broadcast(self, x: str, shape: Shape) -> tuple[str, Shape]:
        small = [size if self.random.random() < 0.5 else 1 for size in shape][self.random.choice((0, 0, 1)) :]
        other = self.random.choice((self.model.weight, self.model.input))(*small)
        return self.model.node(self.random.choice(("Add", "Mul")), *self.random.sample((x, other), 2)), shape

    def reshape(self, x: str, shape: Shape) -> tuple[str, Shape]:
        size = math.prod(shape)
        first = self.random.choice([d for d in range(1, 41) if size % d == 0])
        second = self.random.choice([d for d in range(1, 41) if size // first % d == 0])
        rest = size // first // second
        new = self.random.choice(((first, second * rest), (first, second, rest), (1, first, second, rest), (size,)))
        return self.model.node("Reshape", x, self.model.constant(new, "int64")), new

    def transpose(self, x: str, shape: Shape) -> tuple[str, Shape]:
        order = self.random.sample(range(len(shape)), len(shape))
        return self.model.node("Transpose", x, perm=order), tuple(shape[axis] for axis in order)

    def normalise(self, x: str, shape: Shape) -> tuple[str, Shape]:
        return self.model.node("Softmax", x, axis=self.random.randrange(len(shape))), shape

    def reduce(self, x: str, shape: Shape) -> tuple[str, Shape]:
        axes = self.random.sample(range(len(shape)), self.random.randint(1, len(shape)))
        made = self.model.node("ReduceMean", x, self.model.constant(axes, "int64"))
        return made, tuple(1 if axis in axes else size for axis, size in enumerate(shape))

    def multiply(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) < 2:
            return None
        columns = self.random.choice((1, 5, 16, 33))
        return self.model.node("MatMul", x, self.model.weight(shape[-1], columns)), (*shape[:-1], columns)

    def cut(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) < 2 or shape[1] < 3:
            return None
        begin = self.random.randint(0, shape[1] - 2)
        end = self.random.randint(begin + 1, shape[1])
        limits = (self.model.constant([value], "int64") for value in (begin, end, 1))
        return self.model.node("Slice", x, *limits), (shape[0], end - begin, *shape[2:])

    def halve(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) < 2 or shape[1] % 2:
            return None
        first, second = self.model.node("Split", x, outputs=2, axis=1, num_outputs=2)
        half = (shape[0], shape[1] // 2, *shape[2:])
        self.tensors[first] = half
        return second, half

    def enlarge(self, x: str, shape: Shape) -> tuple[str, Shape] | None:
        if len(shape) != 4 or math.prod(shape) > 20_000:
            return None
        made = self.model.node("Resize", x, "", self.model.constant([1, 1, 2, 2]), mode="nearest")
        return made, (*shape[:2], 2 * shape[2], 2 * shape[3])


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs(seed: int, model, agree) -> None:
    network = Network(model, seed)
    while len(network.tensors) < 12:
        network.grow()
    inside = [name for name in network.tensors if name not in model.inputs]
    model.output(*dict.fromkeys([*network.random.sample(inside, 2), inside[-1]]))
    agree(model)


@pytest.mark.parametrize("seed", range(6))
def test_random_chains_of_concatenations_and_parts(seed: int, model, agree, monkeypatch) -> None:
    """Of channels that are whole blocks on every machine, and of others."""
    monkeypatch.setattr(in_place, "IN_PLACE_BYTES", 0)
    network = Network(model, seed, ((1, 1, 2), (16, 32, 32), (3,), (4,)))
    while len(network.tensors) < 14:
        network.grow(("convolve", "activate", "combine", "concatenate", "concatenate", "halve", "halve", "cut"))
    inside = [name for name in network.tensors if name not in model.inputs]
    model.output(*dict.fromkeys([*network.random.sample(inside, 2), inside[-1]]))
    agree(model)
