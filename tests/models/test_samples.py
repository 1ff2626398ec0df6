"""Real inputs to calibrate on and to judge by: do they share nothing, and exercise the models?"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from corpus.meaning import detections
from corpus.models import model_path
from corpus.samples import MODELS, calibration_feeds, held_out_feeds

pytestmark = pytest.mark.models


def answers(name, feeds):
    session = onnxruntime.InferenceSession(model_path(name), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return [dict(zip(outputs, session.run(outputs, feed), strict=True)) for feed in feeds]


@pytest.mark.parametrize("name", MODELS)
def test_the_sets_share_no_sample_and_are_the_same_every_time(name):
    calibrating, judging = calibration_feeds(name, 20), held_out_feeds(name)
    seen = {b"".join(value.tobytes() for value in feed.values()) for feed in calibrating}
    assert len(seen) == 20
    assert not seen & {b"".join(value.tobytes() for value in feed.values()) for feed in judging}
    again = zip(calibrating[:3], calibration_feeds(name, 3), strict=True)
    assert all(np.array_equal(one[key], other[key]) for one, other in again for key in other)


def test_there_is_something_to_detect():
    assert sum(len(detections(answer)) for answer in answers("nudenet", held_out_feeds("nudenet"))) >= 20


def test_scores_spread():
    scores = [
        float(next(iter(answer.values())).reshape(-1)[1])
        for answer in answers("open-nsfw", held_out_feeds("open-nsfw"))
    ]
    assert min(scores) <= 0.05 and max(scores) >= 0.95
    assert len({int(10 * score) for score in scores}) >= 8
