"""What a model's answer means, and whether two answers mean the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from pretrained import fetch

from corpus import minilm
from corpus.models import LIGHT_NETS, SILEROS

Answer = dict[str, np.ndarray]


@dataclass(frozen=True)
class Box:
    """A thing found in a picture: its class, how sure the model is, and left, top, right, bottom."""

    label: int
    score: float
    corners: tuple[float, float, float, float]


def assert_same_meaning(name: str, actual: Answer, expected: Answer, feed: Answer) -> None:
    """Raise AssertionError where a person would see another answer."""
    if name in LIGHT_NETS or name in ("open-nsfw", "ppocr-cls"):
        assert [int(v.argmax()) for v in actual.values()] == [int(v.argmax()) for v in expected.values()]
    elif name in SILEROS:
        ours, theirs = speech_probability(actual), speech_probability(expected)
        assert abs(ours - theirs) < 1e-3 and (ours > 0.5) == (theirs > 0.5)
    elif name == "nudenet":
        assert_same_boxes(detections(actual), detections(expected))
    elif name == "ppocr-det":
        assert_same_boxes(text_regions(actual), text_regions(expected))
    elif name == "ppocr-rec":
        assert read_text(actual) == read_text(expected)
    elif name == "magika":
        assert file_type(actual) == file_type(expected)
    elif name == "minilm":
        mask = feed["attention_mask"]
        ours, theirs = (minilm.embedding(answer["last_hidden_state"], mask) for answer in (actual, expected))
        assert ours @ theirs > 1 - 1e-6
    else:
        raise KeyError(name)


def speech_probability(answer: Answer) -> float:
    """How sure the model is that somebody speaks."""
    return float(next(value for key, value in answer.items() if key in ("output", "speech_probs")).reshape(()))


def file_type(answer: Answer) -> str:
    """The type of a file."""
    labels = json.loads((fetch("magika").parent / "config.min.json").read_text())["target_labels_space"]
    return str(labels[int(answer["target_label"].argmax())])


def read_text(answer: Answer) -> str:
    """The text of a line: the likeliest character of every column, repetitions and blanks left out (CTC)."""
    (probabilities,) = answer.values()
    indices = probabilities[0].argmax(axis=1)
    kept = (indices != 0) & np.concatenate([[True], indices[1:] != indices[:-1]])
    return "".join(_characters()[index] for index in indices[kept])


def detections(answer: Answer, *, threshold: float = 0.25, overlap: float = 0.45) -> list[Box]:
    """What nudenet (YOLOv8) found: the boxes above the threshold, without those that overlap a surer one."""
    rows = answer["output0"][0].T
    scores = rows[:, 4:].max(axis=1)
    found: list[Box] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < threshold:
            break
        x, y, width, height = (float(value) for value in rows[index, :4])
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        box = Box(int(rows[index, 4:].argmax()), float(scores[index]), corners)
        if all(intersection_over_union(box, other) <= overlap for other in found):
            found.append(box)
    return found


def text_regions(answer: Answer, *, threshold: float = 0.5, inside: float = 0.3, unclip: float = 1.6) -> list[Box]:
    """Where text is, as RapidOCR decodes the map, but with upright rectangles for lines that are hardly turned.

    Connected parts of what is `inside` text, each made larger by a pixel, are boxes if they are sure: of a mean of at
    least `threshold`. The model is trained to see text shrunk, which is undone by a distance of area by perimeter times
    `unclip` (Liao et al., 2019, arXiv:1911.08947).
    """
    (probabilities,) = answer.values()
    scores = probabilities[0, 0]
    mask = scores > inside
    mask[1:] |= mask[:-1].copy()
    mask[:, 1:] |= mask[:, :-1].copy()
    found = []
    for left, top, right, bottom in connected_parts(mask):
        score = float(scores[top : bottom + 1, left : right + 1].mean())
        width, height = right - left, bottom - top
        if min(width, height) < 3 or score < threshold:
            continue
        distance = width * height * unclip / (2 * (width + height))
        if min(width, height) + 2 * distance >= 5:
            corners = (
                max(0.0, left - distance),
                max(0.0, top - distance),
                min(float(scores.shape[1]), right + distance),
                min(float(scores.shape[0]), bottom + distance),
            )
            found.append(Box(0, score, corners))
    return found


def connected_parts(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom pixel of every part that is connected, over corners as well; rows of runs, merged."""
    parts: list[list[int]] = []
    root: list[int] = []
    above: list[tuple[int, int, int]] = []

    def root_of(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        runs: list[tuple[int, int, int]] = []
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            touching = [root_of(part) for first, last, part in above if first <= end and begin <= last]
            number = min(touching, default=len(parts))
            if number == len(parts):
                root.append(number)
                parts.append([begin, y, end - 1, y])
            box = parts[number]
            for other in {*touching} - {number}:
                root[other] = number
                a, b, c, d = parts[other]
                box[:] = min(box[0], a), min(box[1], b), max(box[2], c), max(box[3], d)
            box[:] = min(box[0], begin), box[1], max(box[2], end - 1), y
            runs.append((begin, end, number))
        above = runs
    return [(box[0], box[1], box[2], box[3]) for number, box in enumerate(parts) if root[number] == number]


def assert_same_boxes(actual: list[Box], expected: list[Box], *, overlap: float = 0.99) -> None:
    """Every box has its counterpart, of the same class."""
    assert len(actual) == len(expected), f"{len(actual)} boxes instead of {len(expected)}"
    for box in expected:
        same = [other for other in actual if other.label == box.label]
        nearest = max((intersection_over_union(box, other) for other in same), default=0.0)
        assert nearest >= overlap, f"{box} has no counterpart: the nearest overlaps by {nearest:.4f}"


def intersection_over_union(one: Box, other: Box) -> float:
    """The area that both cover over the area that either covers."""
    (a, b, c, d), (e, f, g, h) = one.corners, other.corners
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)


@cache
def _characters() -> list[str]:
    metadata = {entry.key: entry.value for entry in onnx.load(fetch("ppocr-rec")).metadata_props}
    return ["", *metadata["character"].splitlines(), " "]
