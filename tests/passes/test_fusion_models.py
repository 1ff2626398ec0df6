"""What fusion makes of the pretrained models: every convolution carries what is behind it."""

from __future__ import annotations

import time
from collections import Counter

import onnx_graphsurgeon as gs
import pytest
from corpus.models import model_path, shapes

from lepton_compile.model import Graph, import_model
from lepton_compile.planning import adapt
from lepton_compile.rewriting import Stage, list_passes
from lepton_compile.rewriting.elementwise import is_elementwise
from lepton_compile.rewriting.regions import kind_of

PASSES = [entry.name for entry in list_passes() if entry.exact]

pytestmark = pytest.mark.models


def counts(graph: Graph) -> Counter[str]:
    return Counter(kind_of(node) or node.op for node in graph.nodes())


def operators(graph: Graph, kind: str) -> Counter[str]:
    """What the regions of a kind hold."""
    functions = [function for function in graph.gs.functions if function.name.startswith(f"{kind}_")]
    return Counter(kind_of(node) or node.op for function in functions for node in function.nodes)


def behind(graph: Graph, *op_types: str) -> list[gs.Node]:
    """Element-wise nodes that are the only reader of an anchor that is not fused, and that keep its shape."""
    return [
        reader
        for node in graph.nodes()
        if node.op in op_types and len(node.outputs[0].outputs) == 1
        for reader in node.outputs[0].outputs
        if is_elementwise(reader) and reader.outputs[0].shape == node.outputs[0].shape
    ]


@pytest.mark.parametrize(
    ("name", "expected", "convolution"),
    [
        # 7 convolutions have no activation: the 6 that end the heads, and the one that weighs the box distributions.
        ("nudenet", {"Convolution": 57, "Conv": 7}, {"Conv": 57, "SiLU": 57, "Add": 6}),
        # The 4 that project a shortcut, whose sum goes to the other convolution.
        ("open-nsfw", {"Convolution": 49, "Conv": 4, "MatMul": 1}, {"Conv": 49, "Relu": 49, "Add": 16}),
        ("ppocr-det", {"Convolution": 47}, {"HardSwish": 24, "HardSigmoid": 10, "ConvTranspose": 2, "Sigmoid": 1}),
        ("ppocr-cls", {"Convolution": 49, "MatMul": 1}, {"HardSwish": 18, "HardSigmoid": 9, "Relu": 15}),
        (
            "ppocr-rec",
            {"Convolution": 37, "Conv": 1, "LayerNormalization": 5, "Attention": 2, "MatMul": 9},
            {"HardSwish": 28, "HardSigmoid": 2, "SiLU": 5, "Relu": 2},
        ),
        ("silero", {"Convolution": 5, "ElementWise": 1}, {"Conv": 5, "Relu": 4, "Sigmoid": 1}),
        # The first of the 13 normalisations has the sum of the embeddings in front of it.
        ("minilm", {"LayerNormalization": 12, "Rows": 1, "Attention": 6, "MatMul": 36}, {}),
    ],
)
def test_pretrained_models(name: str, expected: dict[str, int], convolution: dict[str, int]) -> None:
    graph = import_model(model_path(name), shapes(name))
    fused, _ = adapt(graph, None, passes=PASSES, verify=True)  # type: ignore[arg-type]
    found, inside = counts(fused), operators(fused, "Convolution")
    assert {kind: found[kind] for kind in expected} == expected
    assert {operator: inside[operator] for operator in convolution} == convolution
    assert not behind(fused, "Conv", "ConvTranspose", "MatMul", "Gemm")


def test_fusion_takes_no_time() -> None:
    graph = import_model(model_path("light-densenet121"), shapes("light-densenet121"))
    fuse = [entry.name for entry in list_passes() if entry.stage is Stage.FUSE]
    start = time.process_time()
    fused, _ = adapt(graph, None, passes=fuse)  # type: ignore[arg-type]
    assert time.process_time() - start < 2
    assert counts(fused)["Convolution"] > 50
