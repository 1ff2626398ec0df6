"""Real inputs in two sets that share nothing: one to calibrate a quantized model on, one to judge it by.

Photographs, lines of text, voices and sentences are parted before anything is made of them, so that no sample of one
set is a variant of one of the other. Everything is drawn from seeds: the same samples in the same order every time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from pretrained import fetch

from corpus import minilm, voice
from corpus.english import sentences
from corpus.feeds import Feed, line_pixels, nsfw_pixels, square_pixels, text_pixels
from corpus.models import model_path
from corpus.views import CALIBRATION_PICTURES, HELD_OUT_PICTURES, View, random_view
from corpus.writing import random_line, random_page, random_text

MODELS = ("ppocr-det", "ppocr-rec", "ppocr-cls", "nudenet", "open-nsfw", "minilm", "silero")
"""The models that there are samples for."""

# How many samples judge each model; of det's pages each has several regions, of silero's steps most are alike.
_HELD_OUT = {"ppocr-det": 16, "ppocr-rec": 64, "ppocr-cls": 64, "nudenet": 64, "open-nsfw": 48, "minilm": 48}
_HELD_OUT |= {"silero": 240}

# Photographs that nudenet finds something in, several times as often as others.
_PEOPLE = ("skimage/astronaut.png", "skimage/camera.png", "skimage/chelsea.png")
_FOUND = ("foolbox/imagenet_00_243.jpg", "skimage/coffee.png", "skimage/color.png", "ultralytics/bus.jpg")
_FOUND += ("ultralytics/zidane.jpg",)  # faces, near and far, of which the other photographs have none


def calibration_feeds(name: str, count: int = 100) -> list[Feed]:
    """The first `count` samples to calibrate on."""
    return list(islice(_samples(name, held_out=False), count))


@lru_cache(maxsize=1)
def held_out_feeds(name: str) -> tuple[Feed, ...]:
    """The samples that judge."""
    return tuple(islice(_samples(name, held_out=True), _HELD_OUT[name]))


def _samples(name: str, *, held_out: bool) -> Iterator[Feed]:
    random = np.random.default_rng([held_out, MODELS.index(name)])
    match name:
        case "ppocr-det":
            return _pages(random, held_out=held_out)
        case "ppocr-rec":
            return ({"x": line_pixels(image, 320)} for image in _lines(random, 320, held_out=held_out))
        case "ppocr-cls":
            return (
                {"x": line_pixels(_perhaps_turned(random, image), 192)}
                for image in _lines(random, 192, held_out=held_out)
            )
        case "nudenet":
            return _photographs(random, held_out=held_out)
        case "open-nsfw":
            return ({"input:0": nsfw_pixels(view.render(256))} for view in nsfw_views(held_out=held_out))
        case "minilm":
            return _texts(random, held_out=held_out)
        case "silero":
            return iter(_steps(held_out=held_out))
    raise KeyError(name)


def _pictures(held_out: bool) -> tuple[str, ...]:
    return HELD_OUT_PICTURES if held_out else CALIBRATION_PICTURES


def _prose(held_out: bool) -> tuple[str, ...]:
    """Every second sentence, so that both sets speak of everything."""
    return sentences()[held_out::2]


def _photographs(random: np.random.Generator, *, held_out: bool) -> Iterator[Feed]:
    often = _PEOPLE if held_out else _FOUND
    while True:
        view = random_view(random, often if random.random() < 0.5 else _pictures(held_out))
        yield {"images": square_pixels(view.render(320), 320)}


def _pages(random: np.random.Generator, *, held_out: bool) -> Iterator[Feed]:
    """Text on paper and over photographs."""
    prose = _prose(held_out)
    while True:
        if random.random() < 0.5:
            background = random_view(random, _pictures(held_out)).render(640)
        else:
            background = Image.new("RGB", (640, 640), tuple(random.integers(180, 256, 3).tolist()))
        yield {"x": text_pixels(random_page(random, background, prose))[None]}


def _lines(random: np.random.Generator, width: int, *, held_out: bool) -> Iterator[Image.Image]:
    """Lines that fit into `width` without becoming much narrower than printed."""
    prose = _prose(held_out)
    while True:
        image = random_line(random, random_text(random, prose, int(random.integers(1, 5))))
        if image.width <= 1.25 * width:
            yield image


def _perhaps_turned(random: np.random.Generator, image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_180) if random.random() < 0.5 else image


def nsfw_views(*, held_out: bool) -> list[View]:
    """Views whose scores are spread, as `corpus.find_nsfw_views` found them; the calibration's in mixed order."""
    stored = json.loads(Path(__file__).with_name("nsfw_views.json").read_text())
    told = stored["held_out" if held_out else "calibration"]
    views = [View(**{key: value for key, value in view.items() if key != "score"}) for view in told]
    return [views[index] for index in np.random.default_rng(0).permutation(len(views))]


def _texts(random: np.random.Generator, *, held_out: bool) -> Iterator[Feed]:
    """From half a sentence to a paragraph that fills the model's input."""
    prose, weights = _prose(held_out), fetch("minilm-weights")
    while True:
        chosen = random.choice(len(prose), int(random.integers(1, 6)), replace=False)
        yield minilm.tokenize(" ".join(prose[index] for index in chosen), weights)


_VOICES = (("en-us", "en-gb-scotland+f2", "en-029", "de+f4"), ("en-us+f3", "en-gb-x-rp", "es+m3", "nl+f1"))


def _steps(*, held_out: bool) -> list[Feed]:
    """The steps of `speech_sequence` in mixed order, each with the state that the original was in."""
    feeds = speech_sequence(held_out=held_out)
    return [feeds[index] for index in np.random.default_rng([held_out, 6, 1]).permutation(len(feeds))]


@cache
def speech_sequence(*, held_out: bool) -> tuple[Feed, ...]:
    """Silero's steps through speech with silences and noise, in order, each with the state that the original was in."""
    random = np.random.default_rng([held_out, 6])
    session = onnxruntime.InferenceSession(model_path("silero"), providers=["CPUExecutionProvider"])
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(voice.RATE, np.int64)
    utterances = [_utterance(random, name, held_out=held_out) for name in _VOICES[held_out] for _ in range(4)]
    sound = np.concatenate(utterances)
    feeds = []
    for start in range(0, len(sound) - 576, 512):
        feed = {"input": sound[None, start : start + 576], "state": state, "sr": rate}
        feeds.append(feed)
        (state,) = session.run(["stateN"], feed)
    return tuple(feeds)


def _utterance(random: np.random.Generator, name: str, *, held_out: bool) -> np.ndarray:
    """A sentence, a pause, and over both some noise; louder and softer."""
    prose = _prose(held_out)
    text = prose[int(random.integers(0, len(prose)))]
    spoken = voice.speak(text, name, int(random.integers(130, 210)), int(random.integers(30, 70)))
    pause = np.zeros(int(voice.RATE * random.uniform(0.5, 2.5)), np.float32)
    sound = np.concatenate([spoken * np.float32(random.uniform(0.1, 1.0)), pause])
    return sound + random.standard_normal(len(sound), np.float32) * np.float32(10 ** random.uniform(-4, -1.2))
