"""Calibrates on COUNT pictures that a generator makes, and prints by how many bytes the peak of memory grew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import import_model
from lepton_compile.planning import adapt
from lepton_compile.rewriting import Context
from lepton_compile.target import resolve_target

SHAPE = (1, 3, 224, 224)


def model() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(
        "g (float[1,3,224,224] x) => (float[1,8] y) { a = Conv<strides=[4,4]>(x, w) b = Relu(a) c = Conv(b, v) "
        "m = GlobalAveragePool(c) y = Flatten(m) }"
    )
    for name, shape in (("w", (16, 3, 4, 4)), ("v", (8, 16, 3, 3))):
        weights = random.standard_normal(shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def pictures(count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.standard_normal(SHAPE, np.float32)


def adapted(count: int) -> None:
    contract = Contract(pictures(count), *metric_of("cosine"), 0.01)
    _, plan = adapt(import_model(model()), resolve_target("x86-64-v4-vnni"), context=Context(contract))
    assert any(step.name == "quantization" for step in plan.steps)


def peak() -> int:
    """Of this program; what getrusage says begins with the peak of the one that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


adapted(2)  # whatever comes once comes now
before = peak()
adapted(int(sys.argv[1]))
print(peak() - before)
