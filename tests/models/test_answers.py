"""Every model of the corpus, compiled, gives onnxruntime's answers: per tensor, channel and kernel, and by meaning."""

import corpus
import numpy as np
import pytest
from corpus import feeds, meaning

from lepton_compile import bisect
from lepton_compile.evaluation.compare import compare_outputs

pytestmark = pytest.mark.models

every_model = pytest.mark.parametrize("name", corpus.NAMES)
both_targets = pytest.mark.parametrize("target", ["host", "x86-64-v3"])
STATES = {"stateN": "state", "hn": "h", "cn": "c"}


@both_targets
@every_model
def test_random_inputs(name, target, compiled, answers):
    model = compiled(name, target)
    for seed in range(3):
        feed = corpus.random_feed(name, seed)
        assert compare_outputs(model.run(feed), answers(name, feed)) == [], f"seed {seed}"


@both_targets
@every_model
def test_real_inputs(name, target, compiled, answers, published_answers):
    model = compiled(name, target)
    for label, feed in corpus.real_feeds(name).items():
        actual = model.run(feed)
        assert compare_outputs(actual, answers(name, feed)) == [], label
        published = published_answers(name, feed)
        # Channels are left out: onnxruntime's own Sigmoid has no digits left in those of a class that nowhere is.
        assert compare_outputs(actual, published, channel_tolerance=np.inf) == [], label
        meaning.assert_same_meaning(name, actual, published, feed)


@both_targets
@pytest.mark.parametrize("name", corpus.SILEROS)
def test_state_is_carried(name, target, compiled, answers):
    """Both engines hear 20 steps of speech, each with the state that it left itself."""
    model = compiled(name, target)
    ours: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    probabilities = []
    for step, feed in enumerate(feeds.speech_feeds(name, 30)[10:]):
        actual, expected = model.run(feed | ours), answers(name, feed | theirs)
        assert compare_outputs(actual, expected) == [], f"step {step}"
        meaning.assert_same_meaning(name, actual, expected, feed)
        ours, theirs = (
            {STATES[key]: value for key, value in outputs.items() if key in STATES} for outputs in (actual, expected)
        )
        assert any(value.any() for value in ours.values())
        probabilities.append(meaning.speech_probability(actual))
    assert len(probabilities) == 20 and max(probabilities) > 0.5


@every_model
def test_every_pass_and_every_kernel(name):
    """Each kernel stores what onnxruntime computes from the same values, to 1e-5."""
    feed = next(iter(corpus.real_feeds(name).values()))
    finding = bisect(corpus.model_path(name), shapes=corpus.shapes(name), inputs=feed)
    assert finding.culprit == "", str(finding)
    assert [check for check in finding.kernels if check.mismatch is not None] == []
    stored = {check.tensor for check in finding.kernels}
    assert stored
