"""All exact passes on the classic nets that ship with onnx, every step held to onnxruntime's answers."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from lepton_compile.model import Graph, import_model
from lepton_compile.planning import Plan, adapt
from lepton_compile.rewriting import Stage, list_passes
from lepton_compile.rewriting.equality import same_graph

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
EXACT = [entry.name for entry in list_passes() if entry.stage is Stage.CANONICALISE and entry.exact]


def with_random_weights(name: str) -> Graph:
    """As shipped, the weights are constants and the answer does not depend on the input."""
    graph = import_model(FOLDER / f"light_{name}.onnx")
    random = np.random.default_rng(0)
    for node in graph.nodes():
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.dtype == np.float32 and tensor.values.size > 1:
                fan_in = max(1, int(np.prod(tensor.shape[1:])))
                # Vectors serve as variances too: they are positive.
                values = random.normal(size=tensor.shape) if fan_in > 1 else random.random(tensor.shape) + 0.5
                tensor.values = (values / np.sqrt(fan_in)).astype(np.float32)
    return graph


@pytest.mark.parametrize(
    ("name", "gone", "left"),
    [
        ("densenet121", ("Mul", "Add"), {"BatchNormalization": 62}),  # those before a Conv, behind a Concat
        ("inception_v2", ("BatchNormalization", "Mul", "Add"), {"Conv": 69}),
        ("shufflenet", ("BatchNormalization",), {"Conv": 49}),
        ("squeezenet", ("Dropout",), {"Conv": 26}),
    ],
)
def test_exact_passes(name, gone, left):
    graph = with_random_weights(name)
    adapted, plan = adapt(graph, None, passes=EXACT, verify=True)
    operators = Counter(node.op for node in adapted.nodes())
    assert not any(operators[operator] for operator in gone), operators
    assert {operator: operators[operator] for operator in left} == left
    again, _ = adapt(graph, None, plan=Plan.from_json(plan.to_json()))
    assert same_graph(adapted, again)


def test_six_hundred_nodes_take_no_time():
    graph = with_random_weights("densenet121")
    start = time.process_time()
    adapt(graph, None, passes=EXACT)
    assert time.process_time() - start < 5
