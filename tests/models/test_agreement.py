"""Do the rules of agreement with the original see what a person would, and nothing else?"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from corpus import agreement, meaning
from corpus.agreement import RULES, box_deviation, edit_distance, metric
from corpus.meaning import Box, connected_parts
from hypothesis import given, settings
from hypothesis import strategies as st

THRESHOLD = 0.25


def box(score=0.6, label=1, left=10.0, width=100.0):
    return Box(label, score, (left, 20.0, left + width, 80.0))


def deviation(found, expected, score=0.02):
    return box_deviation(found, expected, THRESHOLD, score)[0]


@pytest.mark.parametrize(
    ("found", "expected", "holds"),
    [
        ([box(0.61, left=12)], [box(0.6)], True),
        ([box(0.63)], [box(0.6)], False),
        ([box(left=16)], [box()], False),
        ([box(label=2)], [box()], False),
        ([], [box()], False),
        ([box()], [], False),
        ([box(), box(0.3, left=150)], [box()], False),
        # Within 0.02 of the threshold the original's box may vanish, and one that it nearly had may appear.
        ([box()], [box(), box(0.265, left=150)], True),
        ([box()], [box(), box(0.275, left=150)], False),
        ([box(), box(0.255, left=150)], [box(), box(0.24, left=150)], True),
        ([box(), box(0.265, left=150)], [box(), box(0.24, left=150)], False),
        ([box(), box(0.255, left=170)], [box(), box(0.24, left=150)], False),
        # What neither is sure enough of is not there.
        ([box(), box(0.24, left=150)], [box(), box(0.24, left=300)], True),
    ],
)
def test_boxes_match_in_both_directions(found, expected, holds):
    assert (deviation(found, expected) <= 1) == holds


def test_boxes_further_away_deviate_more():
    worse = [deviation([box(left=10 + shift)], [box()]) for shift in (0, 2, 4, 8, 40, 400)]
    assert worse[0] == 0 and worse == sorted(set(worse))


def detector(*rows):
    """nudenet's answer: x, y, width, height and 18 scores of each of its anchors."""
    anchors = np.zeros((1, 22, 50), np.float32)
    for place, (x, label, score) in enumerate(rows):
        anchors[0, :4, place] = x, 100, 40, 40
        anchors[0, 4 + label, place] = score
    return {"output0": anchors}


def test_detections_are_judged_by_class_place_and_score():
    original = detector((50, 3, 0.8), (200, 5, 0.5))
    assert RULES["nudenet"]([original], [original]).deviation == 0
    assert RULES["nudenet"]([detector((51, 3, 0.81), (200, 5, 0.49))], [original]).holds
    for other in (
        detector((56, 3, 0.8), (200, 5, 0.5)),
        detector((50, 4, 0.8), (200, 5, 0.5)),
        detector((50, 3, 0.8), (200, 5, 0.47)),
        detector((50, 3, 0.8)),
        detector((50, 3, 0.8), (200, 5, 0.5), (280, 5, 0.3)),
    ):
        judged = RULES["nudenet"]([original, other], [original, original])
        assert not judged.holds, judged
    assert "2 unmatched of 4" in RULES["nudenet"]([original, detector()], [original, original]).figure


def text_map(*rectangles, probability=0.9):
    scores = np.zeros((1, 1, 160, 160), np.float32)
    for left, top, right, bottom in rectangles:
        scores[0, 0, top:bottom, left:right] = probability
    return {"map": scores}


def test_regions_are_judged_by_their_place():
    original = text_map((10, 10, 90, 24), (10, 60, 120, 80))
    assert len(meaning.text_regions(original)) == 2
    assert RULES["ppocr-det"]([text_map((10, 10, 90, 24), (10, 60, 121, 80))], [original]).holds
    assert RULES["ppocr-det"]([text_map((10, 10, 90, 24), (10, 60, 120, 80), probability=0.7)], [original]).holds
    for other in (
        text_map((10, 10, 90, 24)),
        text_map((10, 10, 90, 24), (10, 60, 120, 80), (10, 120, 60, 140)),
        text_map((10, 10, 90, 24), (10, 60, 80, 80)),
        text_map((10, 10, 90, 24), (10, 60, 60, 80), (64, 60, 120, 80)),
        text_map((10, 10, 90, 24), (10, 60, 120, 80), probability=0.4),
    ):
        assert not RULES["ppocr-det"]([other], [original]).holds


def characters(text, sure=0.9):
    """An answer that is read as a text: every character in a column of its own, blanks between."""
    answer = np.full((1, 2 * len(text), 27), (1 - sure) / 26, np.float32)
    for place, letter in enumerate(text):
        answer[0, 2 * place, ord(letter) - ord("a") + 1] = answer[0, 2 * place + 1, 0] = sure
    return {"softmax": answer}


def test_a_character_in_a_hundred_may_be_wrong(monkeypatch):
    monkeypatch.setattr(meaning, "_characters", lambda: ["", *"abcdefghijklmnopqrstuvwxyz"])
    line, wrong = characters("abcdefghij" * 5), characters("abcdefghij" * 4 + "abcdefghix")
    assert RULES["ppocr-rec"]([line, line], [line, line]).deviation == 0
    assert RULES["ppocr-rec"]([line, wrong], [line, line]).holds
    assert RULES["ppocr-rec"]([line, wrong], [line, line]).figure == "99.00% of 100 characters"
    assert not RULES["ppocr-rec"]([wrong], [line]).holds
    assert not RULES["ppocr-rec"]([wrong, wrong], [line, line]).holds
    less_sure = RULES["ppocr-rec"]([characters("abcdefghij" * 5, sure=0.85)], [line])
    assert less_sure.deviation == 0 and less_sure.general > 0


@pytest.mark.parametrize(("one", "other", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)])
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@pytest.mark.parametrize("name", ["open-nsfw", "ppocr-cls"])
def test_one_probability_that_is_off_fails(name):
    originals = [{"p": np.array([[0.3, 0.7]], np.float32)}] * 10
    near, off = {"p": np.array([[0.315, 0.685]], np.float32)}, {"p": np.array([[0.325, 0.675]], np.float32)}
    assert RULES[name]([near] * 10, originals).holds
    assert not RULES[name]([near] * 9 + [off], originals).holds


def test_speech_is_judged_by_its_probability():
    original = {"output": np.array([[0.5]], np.float32), "stateN": np.zeros((2, 1, 128), np.float32)}
    assert RULES["silero"]([original | {"stateN": original["stateN"] + 1}], [original]).holds
    assert not RULES["silero"]([original | {"output": np.array([[0.53]], np.float32)}], [original]).holds


def test_embeddings_are_means_over_the_tokens_alone():
    hidden = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
    original = {"last_hidden_state": hidden, "attention_mask": np.array([[1, 1, 1, 1, 0, 0]])}
    padding, token = hidden.copy(), hidden.copy()
    padding[0, 5] += 10
    token[0, 0] += 1
    assert RULES["minilm"]([{"last_hidden_state": padding}], [original]).holds
    assert not RULES["minilm"]([{"last_hidden_state": token}], [original]).holds
    assert not RULES["minilm"]([{"last_hidden_state": hidden}, {"last_hidden_state": token}], [original] * 2).holds


def test_a_metric_is_the_worst_deviation():
    original = {"p": np.array([[0.5, 0.5]], np.float32)}
    off = {"p": np.array([[0.51, 0.49]], np.float32)}
    assert metric("open-nsfw")([off, *[original] * 6], [original] * 7) == pytest.approx(-0.5, abs=1e-3)
    # Where all are off, others are further off than the worst of these.
    assert metric("open-nsfw")([off] * 7, [original] * 7) == pytest.approx(-1.25, abs=2e-3)
    assert metric("open-nsfw")([original], [original]) == 0
    assert metric("open-nsfw").__name__ == "agreement"
    sure, less_sure = ({"output": np.array([[p]], np.float32), "stateN": original["p"]} for p in (0.9, 0.91))
    assert RULES["silero"]([less_sure], [sure]).deviation == pytest.approx(0.5, abs=1e-3)
    assert metric("silero")([less_sure], [sure]) < -1


@pytest.mark.parametrize("name", ["nudenet", "ppocr-det"])
def test_a_metric_sees_what_is_not_counted_yet(name):
    """Where nothing is found, and where everything matches."""
    made = {
        "nudenet": lambda score: detector((50, 3, score)),
        "ppocr-det": lambda score: text_map((9, 9, 90, 24), probability=score),
    }
    for before, after, further in ((0.1, 0.11, 0.12), (0.8, 0.79, 0.782)):
        original, near, far = (made[name](score) for score in (before, after, further))
        assert RULES[name]([near], [original]).holds
        assert 0 == metric(name)([original], [original]) > metric(name)([near], [original])
        assert metric(name)([near], [original]) > metric(name)([far], [original])


def test_what_was_decoded_is_forgotten_with_the_array():
    decoded = []
    once = agreement._Once(lambda array: decoded.append(array.sum()) or len(decoded))
    array = np.ones(3)
    assert once(array) == once(array) == 1
    assert len(once._known) == 1
    del array
    gc.collect()
    assert not once._known


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.floats(0.1, 0.7))
def test_connected_parts_are_those_of_a_flood(seed, share):
    mask = np.random.default_rng(seed).random((13, 17)) < share
    left, parts = mask.copy(), []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        left[start], flood = False, [start]
        for y, x in flood:
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if all(0 <= n < size for n, size in zip(near, mask.shape, strict=True)) and left[near]:
                    left[near] = False
                    flood.append(near)
        rows, columns = np.array(flood).T
        parts.append((columns.min(), rows.min(), columns.max(), rows.max()))
    assert sorted(connected_parts(mask)) == sorted(parts)
