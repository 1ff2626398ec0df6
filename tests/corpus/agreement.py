"""Whether a model made faster or smaller still answers as the original: a rule for each model, and a metric from it.

A rule takes answers and the original's, and gives the worst deviation in units of what is allowed: at most 1 holds.

- Probabilities (open-nsfw, cls, silero) are within 0.02 of the original's, for every sample.
- Boxes of nudenet and of det match at an overlap (IoU) of 0.9 with the same class, in both directions: every box of
  either has its counterpart in the other, whose score, with nudenet, is within 0.02. As scores may be off by so much, a
  box that the original is within 0.02 of the threshold with may appear or vanish. Nothing else may.
- Of the characters that the original reads, all lines together, 99 % are read (edit distance).
- Embeddings have a cosine of at least 0.999 with the original's, for every sample.

The metric of an accuracy contract is the same figure, negative. It is one number for all samples, that of the worst
one, so it bounds them all. Where answers are counted, a little of how much they differ in general is added, so that a
search sees small steps, too. The samples that a contract holds out are others than those that judge in the end, and
few. So `MAX_DROP` is less than 1, and contracts judge fainter detections too, probabilities of two classes as if all of
them were on the border, where they move most (cls is sure of nearly all lines), det's pixels at the borders of text,
which decide where boxes end, and how sure rec is of what it reads.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from corpus import minilm
from corpus.feeds import Feed
from corpus.meaning import Answer, Box, detections, intersection_over_union, read_text, speech_probability, text_regions
from corpus.samples import held_out_feeds, speech_sequence

PROBABILITY = 0.02
OVERLAP = 0.9
CHARACTERS = 0.99
COSINE = 0.999
MAX_DROP = 0.7
"""What a contract allows of the deviation that the rules allow."""

# What a box without any counterpart counts, in units of what is allowed; as one that overlaps nothing.
_LOST = 1 / (1 - OVERLAP)
_BOX_THRESHOLD = {"nudenet": 0.25, "ppocr-det": 0.5}
# A contract judges fainter detections too: the few samples that it holds out have more of them.
_FAINT = 0.12
# Where text may end, around the threshold of 0.3; of 130 boxes four were further off than allowed where pixels there
# differed by 0.019 on average.
_BORDER = 0.1, 0.6
_MOVED = 0.018
# 99.5 % of characters and more were the same where probabilities differed by 0.004 on average, and 99 % from 0.011 on.
_UNSURE = 0.01
# Of 24 choices of open-nsfw's layers the worst of 48 samples was off by 1.7 to 7.1 times, in most by less than 3 times,
# as much as the root mean square of 33 others.
_TYPICAL = 2.5
# Beyond these odds a class is certain.
_ODDS = 0.01, 100.0
# What the difference in general adds to a metric.
_IN_GENERAL = 0.1

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Agreement:
    """How far answers are from the original's.

    Attributes:
        deviation: The worst one, in units of what is allowed.
        figure: What it means, for people.
        general: How much probabilities differ in general, in the same units, where `deviation` is of what was counted.
    """

    deviation: float
    figure: str
    general: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it is allowed."""
        return self.deviation <= 1


Rule = Callable[[Sequence[Answer], Sequence[Answer]], Agreement]


class _Once(Generic[Decoded]):
    """A function of an array, computed once for each array as long as that lives."""

    def __init__(self, decode: Callable[[np.ndarray], Decoded]) -> None:
        self._decode = decode
        self._known: dict[int, tuple[weakref.ref[np.ndarray], Decoded]] = {}

    def __call__(self, array: np.ndarray) -> Decoded:
        key = id(array)
        if key not in self._known:
            reference = weakref.ref(array, lambda _: self._known.pop(key, None))
            self._known[key] = reference, self._decode(array)
        return self._known[key][1]


_found = {
    "nudenet": _Once(lambda output: detections({"output0": output}, threshold=_FAINT - PROBABILITY)),
    "ppocr-det": _Once(lambda map_: text_regions({"map": map_}, threshold=_BOX_THRESHOLD["ppocr-det"] - PROBABILITY)),
}
_read = _Once(lambda probabilities: read_text({"probabilities": probabilities}))


def same_probabilities(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """The largest difference of a probability; of a classifier's only output."""
    pairs = zip(answers, originals, strict=True)
    worst = max(float(np.abs(_only(answer) - _only(original)).max()) for answer, original in pairs)
    return Agreement(worst / PROBABILITY, f"off by {worst:.4f}")


def same_at_the_border(answers: Sequence[Answer], originals: Sequence[Answer], of: str = "") -> Agreement:
    """The largest difference of a probability of two classes, if each were one half: a quarter of that of log-odds.

    So many times the root mean square counts as much: of few samples the worst one says little of others.

    Args:
        answers: Answers.
        originals: The original's.
        of: The output that is the probability; the only one if not named.
    """

    def log_odds(answer: Answer) -> np.ndarray:
        probabilities = (answer[of] if of else _only(answer)).astype(np.float64)
        return np.log(np.clip(probabilities / np.maximum(1 - probabilities, 1e-12), *_ODDS))

    pairs = list(zip(answers, originals, strict=True))
    apart = np.array([np.abs(log_odds(answer) - log_odds(original)).max() / 4 for answer, original in pairs])
    worst = float(max(apart.max(), _TYPICAL * np.sqrt((apart**2).mean())))
    return Agreement(worst / PROBABILITY, f"off by {worst:.4f} at the border")


def same_speech(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """The largest difference of silero's probability."""
    pairs = zip(answers, originals, strict=True)
    worst = max(abs(speech_probability(answer) - speech_probability(original)) for answer, original in pairs)
    return Agreement(worst / PROBABILITY, f"off by {worst:.4f}")


def same_detections(
    answers: Sequence[Answer], originals: Sequence[Answer], threshold: float = _BOX_THRESHOLD["nudenet"]
) -> Agreement:
    """Boxes, their classes, and their scores; in general, the score that differs most of each picture."""
    pairs = zip(answers, originals, strict=True)
    general = np.mean([np.abs(_only(answer)[:, 4:] - _only(original)[:, 4:]).max() for answer, original in pairs])
    boxes = _same_boxes("nudenet", answers, originals, threshold, PROBABILITY)
    return replace(boxes, general=float(general) / PROBABILITY)


def same_regions(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """Boxes; in general, pixels."""
    pairs = zip(answers, originals, strict=True)
    general = np.mean([np.abs(_only(answer) - _only(original)).mean() for answer, original in pairs])
    boxes = _same_boxes("ppocr-det", answers, originals, _BOX_THRESHOLD["ppocr-det"], float("inf"))
    return replace(boxes, general=float(general) / PROBABILITY)


def same_borders(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """Boxes, and how much pixels at the borders of text differ on average, in units of what moves no box too far."""
    boxes = same_regions(answers, originals)
    pairs = [(_only(answer), _only(original)) for answer, original in zip(answers, originals, strict=True)]
    borders = [(original > _BORDER[0]) & (original < _BORDER[1]) for _, original in pairs]
    apart = [
        np.abs(answer - original)[border].mean()
        for (answer, original), border in zip(pairs, borders, strict=True)
        if border.any()
    ]
    moved = float(np.mean(apart)) if apart else 0.0
    return replace(boxes, deviation=max(boxes.deviation, moved / _MOVED), figure=f"{boxes.figure}, borders {moved:.4f}")


def same_characters(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """The share of characters that are not read as the original does."""
    wrong = total = 0
    pairs = [(_only(answer), _only(original)) for answer, original in zip(answers, originals, strict=True)]
    for answer, original in pairs:
        text = _read(original)
        total += len(text)
        wrong += edit_distance(_read(answer), text)
    share = wrong / max(total, 1)
    unsure = float(np.mean([np.abs(answer - original).max(axis=-1).mean() for answer, original in pairs]))
    return Agreement(share / (1 - CHARACTERS), f"{1 - share:.2%} of {total} characters", unsure / PROBABILITY)


def same_and_sure(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """Characters, and how much probabilities differ in general, in units of what hardly changes any."""
    read = same_characters(answers, originals)
    return replace(read, deviation=max(read.deviation, read.general * PROBABILITY / _UNSURE))


def same_embeddings(answers: Sequence[Answer], originals: Sequence[Answer]) -> Agreement:
    """The smallest cosine between the means over the tokens; the originals come with the attention mask."""
    cosines = []
    for answer, original in zip(answers, originals, strict=True):
        mask = original["attention_mask"]
        one, other = (minilm.embedding(each["last_hidden_state"], mask) for each in (answer, original))
        cosines.append(float(one @ other))
    return Agreement((1 - min(cosines)) / (1 - COSINE), f"cosine {min(cosines):.5f}")


RULES: Mapping[str, Rule] = {
    "ppocr-det": same_regions,
    "ppocr-rec": same_characters,
    "ppocr-cls": same_probabilities,
    "nudenet": same_detections,
    "open-nsfw": same_probabilities,
    "minilm": same_embeddings,
    "silero": same_speech,
}


_STRICTER: Mapping[str, Rule] = {
    "nudenet": functools.partial(same_detections, threshold=_FAINT),
    "open-nsfw": same_at_the_border,
    "ppocr-cls": same_at_the_border,
    "ppocr-det": same_borders,
    "ppocr-rec": same_and_sure,
    "silero": functools.partial(same_at_the_border, of="output"),
}
"""Rules that imply the others, for few samples."""

INPUTS: Mapping[str, tuple[str, ...]] = {"minilm": ("attention_mask",)}
"""Inputs that a rule finds beside the original's answers."""


def answers_of(name: str, run: Callable[[Feed], Answer], inputs: Sequence[str] = ()) -> list[Answer]:
    """What an engine answers to the samples that judge.

    Silero's are sequences: each step gets the state that the engine itself left at the step before.

    Args:
        name: The model.
        run: The engine.
        inputs: Inputs that are put beside the answers, as `RULES` expect of the original's.
    """
    if name != "silero":
        return [_with(run(feed), feed, inputs) for feed in held_out_feeds(name)]
    answers: list[Answer] = []
    for feed in speech_sequence(held_out=True):
        answers.append(run(feed | {"state": answers[-1]["stateN"]} if answers else feed))
    return answers


def labelled(
    name: str, feeds: Sequence[Feed], original: Callable[[Feed], Answer]
) -> list[Feed] | list[tuple[Feed, Answer]]:
    """Samples for a contract, with labels where the metric needs more than the original's answers."""
    if name not in INPUTS:
        return list(feeds)
    return [(feed, _with(original(feed), feed, INPUTS[name])) for feed in feeds]


def _with(answer: Answer, feed: Feed, inputs: Sequence[str]) -> Answer:
    return answer | {tensor: feed[tensor] for tensor in inputs}


def metric(name: str) -> Callable[[Sequence[Answer], Sequence[Answer]], float]:
    """The metric of a contract that implies the rule: 0, and one less for each whole deviation that is allowed."""
    rule = _STRICTER.get(name, RULES[name])

    def agreement(answers: Sequence[Answer], originals: Sequence[Answer]) -> float:
        judged = rule(answers, originals)
        return -judged.deviation - _IN_GENERAL * judged.general

    return agreement


def box_deviation(found: Sequence[Box], expected: Sequence[Box], threshold: float, score: float) -> tuple[float, int]:
    """The worst deviation of a box, in units of what is allowed, and how many boxes of either are not matched.

    Args:
        found: Boxes, of `threshold - PROBABILITY` and more at least.
        expected: The original's, the same.
        threshold: What a box is one from.
        score: How much a score may be off.
    """
    worst, unmatched = 0.0, 0
    for boxes, others, original in ((expected, found, True), (found, expected, False)):
        for box in boxes:
            if box.score < threshold:
                continue
            deviation = min((_deviation(box, other, score) for other in others), default=_LOST)
            if deviation > 1 and original and box.score <= threshold + PROBABILITY:
                continue  # it may vanish
            worst = max(worst, deviation)
            unmatched += deviation > 1
    return worst, unmatched


@dataclass(frozen=True)
class Found:
    """Boxes that are found again.

    Attributes:
        again: How many of the original's there are again.
        of: How many the original finds.
        others: How many are found that the original has not.
    """

    again: int
    of: int
    others: int


def found_again(answers: Sequence[Answer], originals: Sequence[Answer], overlap: float = 0.5) -> Found:
    """Of nudenet: boxes with the same class and so much in common, each the counterpart of one other."""
    again = of = found = 0
    for answer, original in zip(answers, originals, strict=True):
        boxes, left = (detections(each, threshold=_BOX_THRESHOLD["nudenet"]) for each in (original, answer))
        of, found = of + len(boxes), found + len(left)
        for box in sorted(boxes, key=lambda each: -each.score):
            alike = [each for each in left if each.label == box.label]
            nearest = max(alike, key=lambda each, box=box: intersection_over_union(box, each), default=None)  # type: ignore[misc]
            if nearest is not None and intersection_over_union(box, nearest) >= overlap:
                left = [each for each in left if each is not nearest]
                again += 1
    return Found(again, of, found - again)


def edit_distance(one: str, other: str) -> int:
    """Characters to insert, delete or replace (Levenshtein, 1966)."""
    if one == other:
        return 0
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _same_boxes(
    name: str, answers: Sequence[Answer], originals: Sequence[Answer], threshold: float, score: float
) -> Agreement:
    worst, unmatched, total = 0.0, 0, 0
    for answer, original in zip(answers, originals, strict=True):
        expected = _found[name](_only(original))
        total += sum(box.score >= threshold for box in expected)
        deviation, count = box_deviation(_found[name](_only(answer)), expected, threshold, score)
        worst, unmatched = max(worst, deviation), unmatched + count
    return Agreement(worst, f"{unmatched} unmatched of {total}, worst {worst:.2f}")


def _deviation(box: Box, other: Box, score: float) -> float:
    """Of two boxes, in units of what is allowed."""
    if box.label != other.label:
        return _LOST
    apart = (1 - intersection_over_union(box, other)) / (1 - OVERLAP)
    return max(apart, abs(box.score - other.score) / score)


def _only(answer: Answer) -> np.ndarray:
    (value,) = answer.values()
    return value
