"""The corpus itself: its real inputs mean something to the models, and the models that are built are right."""

import math

import corpus
import numpy as np
import onnx
import pytest
from corpus import feeds, meaning, media, minilm
from pretrained import fetch

pytestmark = pytest.mark.models


@pytest.mark.parametrize("name", corpus.NAMES)
def test_feeds_fit_the_models(name, published_answers):
    inputs = {value.name: value.type.tensor_type for value in onnx.load(corpus.model_path(name)).graph.input}
    for feed in (corpus.random_feed(name, 0), next(iter(corpus.real_feeds(name).values()))):
        assert feed.keys() == inputs.keys() == corpus.shapes(name).keys()
        for tensor, value in feed.items():
            assert value.shape == corpus.shapes(name)[tensor]
            assert value.dtype == onnx.helper.tensor_dtype_to_np_dtype(inputs[tensor].elem_type)
        assert all(np.isfinite(value).all() for value in published_answers(name, feed).values())


def test_files_are_recognised(published_answers):
    for kind, feed in corpus.real_feeds("magika").items():
        assert meaning.file_type(published_answers("magika", feed)) == kind


def test_lines_are_read(published_answers):
    for text, feed in corpus.real_feeds("ppocr-rec").items():
        assert meaning.read_text(published_answers("ppocr-rec", feed)).strip() == text
    for label, feed in corpus.real_feeds("ppocr-cls").items():
        (direction,) = published_answers("ppocr-cls", feed).values()
        assert (0, 180)[int(direction.argmax())] == int(label.rsplit(", ", 1)[1]), label


def test_lines_are_found(published_answers):
    assert len(meaning.text_regions(published_answers("ppocr-det", corpus.real_feeds("ppocr-det")["page"]))) == 4


def test_people_are_found(published_answers):
    found = {
        label: meaning.detections(published_answers("nudenet", feed))
        for label, feed in corpus.real_feeds("nudenet").items()
    }
    assert [box.label for box in found["astronaut"]] == [1]  # a woman's face
    assert [box.label for box in found["photographer"]] == [12]  # a man's face
    assert found["cat"] == []


@pytest.mark.parametrize("sound", [media.speech, media.synthetic_speech])
def test_speech_is_heard(sound, published_answers):
    """With and without espeak-ng; silence is none."""
    state = np.zeros((2, 1, 128), np.float32)
    probabilities = []
    for feed in feeds.speech_feeds("silero", 120, sound()):
        answer = published_answers("silero", feed | {"state": state})
        state = answer["stateN"]
        probabilities.append(meaning.speech_probability(answer))
    assert max(probabilities[5:60]) > 0.7
    quiet = feeds.speech_feeds("silero", 1, np.zeros(512, np.float32))[0]
    assert meaning.speech_probability(published_answers("silero", quiet)) < 0.3


def test_sentences_that_mean_the_same_are_near(published_answers):
    embeddings = [
        minilm.embedding(published_answers("minilm", feed)["last_hidden_state"], feed["attention_mask"])
        for feed in corpus.real_feeds("minilm").values()
    ]
    similarity = np.array(embeddings) @ np.array(embeddings).T
    assert similarity[0, 1] > 0.5
    assert similarity[0, 1] > 2 * max(similarity[0, 2], similarity[0, 3], similarity[1, 2])


def test_minilm_is_bert(published_answers):
    """The graph against the paper's formulas in numpy, float64."""
    feed = corpus.random_feed("minilm", 0)
    expected = _bert(minilm.read_safetensors(fetch("minilm-weights")), feed)
    actual = published_answers("minilm", feed)["last_hidden_state"]
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5


def _bert(weights: dict[str, np.ndarray], feed: dict[str, np.ndarray]) -> np.ndarray:
    def dense(x, name):
        return x @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"]

    def normal(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    tables = {
        kind: weights[f"embeddings.{kind}_embeddings.weight"].astype(float)
        for kind in ("word", "position", "token_type")
    }
    words, length = tables["word"][feed["input_ids"][0]], feed["input_ids"].shape[1]
    x = normal(
        words + tables["position"][:length] + tables["token_type"][feed["token_type_ids"][0]], "embeddings.LayerNorm"
    )
    hidden = feed["attention_mask"][0] == 0
    erf = np.vectorize(math.erf)
    for layer in (f"encoder.layer.{index}" for index in range(6)):
        heads = []
        q, k, v = (dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        for head in range(12):
            part = slice(32 * head, 32 * head + 32)
            scores = q[:, part] @ k[:, part].T / math.sqrt(32)
            scores[:, hidden] = -np.inf
            attention = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(attention / attention.sum(-1, keepdims=True) @ v[:, part])
        mixed = dense(np.concatenate(heads, 1), f"{layer}.attention.output.dense")
        x = normal(x + mixed, f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = normal(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x[None]


@pytest.mark.parametrize("name", corpus.LIGHT_NETS)
def test_light_nets_look_at_their_input(name, published_answers):
    answers = [next(iter(published_answers(name, corpus.random_feed(name, seed)).values())) for seed in (0, 1)]
    assert np.linalg.norm(answers[0] - answers[1]) / np.linalg.norm(answers[0]) > 1e-3
    assert len(np.unique(answers[0])) > 500
