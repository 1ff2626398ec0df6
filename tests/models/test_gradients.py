"""Pretrained models in PyTorch, and what onnxruntime says of the same inputs; after the first passes, too."""

from __future__ import annotations

import corpus
import numpy as np
import pytest
from corpus.digits import digits
from corpus.models import trained_path
from corpus.samples import MODELS, calibration_feeds
from models.test_pruning import first_passes

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.model import Graph, import_model

torch = pytest.importorskip("torch")
network = pytest.importorskip("lepton_compile.gradients.network")

pytestmark = pytest.mark.models

PRETRAINED = ("nudenet", "open-nsfw", "ppocr-det", "ppocr-rec", "ppocr-cls", "minilm", "silero-half", "silero-16k-op15")
TRAINED = ("lenet", "resnet", "mobilenet", "densenet")


def imported(name: str) -> Graph:
    if name in TRAINED:
        return import_model(trained_path(name))
    return import_model(corpus.model_path(name), corpus.shapes(name))


def feed_of(name: str) -> dict[str, np.ndarray]:
    """Real ones where there are some: of noise, probabilities are next to nothing, and rounding is all of them."""
    if name in TRAINED:
        return {"x": digits()[1].images[:1]}
    return calibration_feeds(name, 1)[0] if name in MODELS else corpus.random_feed(name, 0)


@pytest.mark.parametrize("name", [*PRETRAINED, *TRAINED, *corpus.LIGHT_NETS])
def test_answers_are_onnxruntimes(name: str) -> None:
    graph = imported(name)
    feed = feed_of(name)
    for each in (graph, first_passes(graph.copy())):
        wanted = each.run(feed)
        with torch.no_grad():
            answers = network.Network(each)({key: torch.from_numpy(np.array(value)) for key, value in feed.items()})
        assert list(answers) == list(wanted)
        for output, value in wanted.items():
            error = np.linalg.norm(answers[output].numpy() - value) / np.linalg.norm(value)
            assert error < 1e-4, (output, error)


def test_branches_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"If .*it cannot be differentiated"):
        network.Network(imported("silero"))
