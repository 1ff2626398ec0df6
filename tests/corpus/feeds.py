"""What to feed a model of the corpus: random values, and what it was made for, prepared as its package does."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from pretrained import fetch

from corpus import media, minilm
from corpus.models import LIGHT_NETS, SILEROS, shapes

Feed = dict[str, np.ndarray]

LINES = ("Hello World", "Invoice 2024-117", "open source", "TOTAL 1,299.00")
SENTENCES = (
    "A cat sits on the mat.",
    "The kitten is resting on a rug.",
    "Interest rates were raised by the central bank.",
    "The compiler translates a model into machine code.",
)


def random_feed(name: str, seed: int) -> Feed:
    """Values for every input: normally distributed floats; integers that the model takes."""
    random = np.random.default_rng(seed)
    feed: Feed = {}
    for tensor, shape in shapes(name).items():
        match tensor:
            case "sr":
                value = np.array(media.RATE, np.int64)
            case "bytes":
                value = random.integers(0, 257, shape, np.int32)
            case "input_ids":
                value = random.integers(0, 30522, shape, np.int64)
            case "attention_mask":
                value = (np.arange(shape[1]) < random.integers(8, shape[1] + 1))[None].astype(np.int64)
            case "token_type_ids":
                value = random.integers(0, 2, shape, np.int64)
            case _:
                value = random.standard_normal(shape, np.float32)
        feed[tensor] = value
    return feed


def real_feeds(name: str) -> dict[str, Feed]:
    """Real inputs, each under a name that says what it is; where it has one answer, that answer."""
    if name in SILEROS:
        return {f"chunk {index}": feed for index, feed in enumerate(speech_feeds(name, 60)) if index in (5, 20, 40)}
    if name in LIGHT_NETS:
        (tensor,) = shapes(name)
        return {picture: {tensor: _imagenet(media.picture(picture))} for picture in ("astronaut", "dalmatian")}
    match name:
        case "nudenet":
            return {picture: {"images": square_pixels(media.picture(picture), 320)} for picture in media.PICTURES}
        case "open-nsfw":
            return {picture: {"input:0": nsfw_pixels(media.picture(picture))} for picture in media.PICTURES}
        case "ppocr-det":
            pages = {"page": media.page(LINES), "photograph": media.picture("coffee").resize((640, 640))}
            return {label: {"x": text_pixels(image)[None]} for label, image in pages.items()}
        case "ppocr-rec":
            return {text: {"x": line_pixels(media.line(text), 320)} for text in LINES}
        case "ppocr-cls":
            upright = {f"{text}, 0": media.line(text) for text in LINES}
            turned = {f"{text}, 180": media.line(text).transpose(Image.Transpose.ROTATE_180) for text in LINES}
            return {label: {"x": line_pixels(image, 192)} for label, image in (upright | turned).items()}
        case "magika":
            return {label: {"bytes": file_tokens(content)} for label, content in media.files().items()}
        case "minilm":
            return {text: minilm.tokenize(text, fetch("minilm-weights")) for text in SENTENCES}
    raise KeyError(name)


def speech_feeds(name: str, count: int, sound: np.ndarray | None = None) -> list[Feed]:
    """The inputs of `count` steps of 32 ms of a sound, each with the end of the one before it; the state is zero."""
    sound = media.speech() if sound is None else sound
    sound = np.concatenate([np.zeros(64, np.float32), sound, np.zeros(512 * count, np.float32)])
    zeros = {tensor: np.zeros(shape, np.float32) for tensor, shape in shapes(name).items()}
    if "sr" in zeros:
        zeros["sr"] = np.array(media.RATE, np.int64)
    return [zeros | {"input": sound[None, 512 * step : 512 * step + 576]} for step in range(count)]


def text_pixels(image: Image.Image) -> np.ndarray:
    """[3, height, width] in [-1, 1], blue first, which is how OpenCV reads."""
    return (np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5


def line_pixels(image: Image.Image, width: int) -> np.ndarray:
    """48 high, not wider than `width`, and filled up with zeros to it."""
    scaled = image.resize((min(width, round(48 * image.width / image.height)), 48), Image.Resampling.BILINEAR)
    padded = np.zeros((1, 3, 48, width), np.float32)
    padded[0, :, :, : scaled.width] = text_pixels(scaled)
    return padded


def square_pixels(image: Image.Image, size: int) -> np.ndarray:
    """Made square with black below or to the right, in [0, 1]."""
    square = Image.new("RGB", (max(image.size), max(image.size)))
    square.paste(image)
    scaled = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.float32).transpose(2, 0, 1)[None] / 255


def nsfw_pixels(image: Image.Image) -> np.ndarray:
    """The middle of the picture, through JPEG, blue first, less the mean of each colour."""
    cropped = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    compressed = io.BytesIO()
    cropped.save(compressed, "JPEG")
    return np.asarray(Image.open(compressed), np.float32)[None, :, :, ::-1] - np.array([104, 117, 123], np.float32)


def _imagenet(image: Image.Image) -> np.ndarray:
    """Every colour with mean 0 and variance 1 over ImageNet."""
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    return np.ascontiguousarray(((pixels - mean) / deviation).transpose(2, 0, 1)[None])


def file_tokens(content: bytes) -> np.ndarray:
    """The first and the last 1024 bytes without the white space around them; 256 stands for no byte."""
    first = list(content[:4096].lstrip()[:1024])
    last = list(content[-4096:].rstrip()[-1024:])
    tokens = first + [256] * (1024 - len(first)) + [256] * (1024 - len(last)) + last
    return np.array([tokens], np.int32)
