"""Real models import with every shape known, and give onnxruntime's answers of the file as it was published."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lepton_compile.model import import_model
from lepton_compile.model.shapes import is_static, variables

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))
NAMES = [
    "ppocr-det", "ppocr-rec", "ppocr-cls", "nudenet", "open-nsfw", "silero", "silero-16k-op15", "silero-half",
    "silero-16k-sequence", "silero-op18-ifless", "silero-openvino-16k", "magika",
]  # fmt: skip
SHAPE_ARITHMETIC = {"Shape", "Size", "Constant", "ConstantOfShape", "Range", "NonZero"}


def run_original(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    declared = {value.name for value in session.get_inputs()}
    return [
        dict(zip(names, session.run(None, {k: v for k, v in feed.items() if k in declared}), strict=True))
        for feed in feeds
    ]


def random_feeds(graph):
    rng = np.random.default_rng(0)
    feed = {}
    for tensor in graph.gs.inputs:
        integer = tensor.dtype.kind in "iu"
        values = rng.integers(0, 256, tensor.shape) if integer else rng.standard_normal(tensor.shape) * 0.5
        feed[tensor.name] = np.asarray(values).astype(tensor.dtype)
    return feed


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype
        difference = np.linalg.norm(got[name].astype(float) - value) / max(np.linalg.norm(value.astype(float)), 1e-30)
        assert difference < 1e-5, f"{name}: {difference}"


def check_import(path, shapes, feeds_of):
    graph = import_model(path, shapes)
    assert graph.opset == 21
    for tensor in (*variables(graph.gs), *graph.gs.inputs):
        assert is_static(tensor.shape) and tensor.dtype is not None, tensor
    assert not SHAPE_ARITHMETIC & {node.op for node in graph.nodes()}
    feeds = feeds_of(graph)
    for feed, want in zip(feeds, run_original(path, feeds), strict=True):
        assert_same(graph.run(feed), want)
        assert all(tuple(tensor.shape) == want[tensor.name].shape for tensor in graph.gs.outputs)
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_models(pretrained, name):
    def feeds_of(graph):
        feed = random_feeds(graph)
        return [{**feed, "sr": np.array(16000)} if "sr" in feed else feed]

    shapes = pretrained.PRETRAINED[name].shapes
    if name == "silero-16k-sequence":
        shapes = {"input": (4, 576)}
    graph = check_import(pretrained.fetch(name), shapes, feeds_of)
    original = onnx.load(pretrained.fetch(name), load_external_data=False)
    assert graph.metadata == {entry.key: entry.value for entry in original.metadata_props}


@pytest.mark.parametrize("name", ["silero", "silero-op18-ifless"])
def test_both_sampling_rates(pretrained, name):
    """An input that both branches can take: the choice is still made at run time."""

    def feeds_of(graph):
        return [{**random_feeds(graph), "sr": np.array(rate)} for rate in (16000, 8000)]

    graph = check_import(pretrained.fetch(name), {"input": (1, 320), "state": (2, 1, 128)}, feeds_of)
    assert sum(node.op == "If" for node in graph.nodes()) == 1
    assert not graph.notes


def test_the_sampling_rate_that_does_not_fit_the_length(pretrained):
    graph = import_model(pretrained.fetch("silero"), {"input": (1, 576), "state": (2, 1, 128)})
    got = graph.run({**random_feeds(graph), "sr": np.array(8000)})
    assert all(np.isnan(value).all() for value in got.values())
    assert len(graph.notes) == 1 and "If_0" in graph.notes[0]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_light_models(path):
    graph = check_import(path, None, lambda graph: [random_feeds(graph)])
    assert len(graph.gs.inputs) == 1
    assert graph.to_model(weights=False).ByteSize() < 2_000_000
