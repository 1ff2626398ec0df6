"""What the world sends to a model: pictures, lines of text, speech, files. The same on every machine."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import wave
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pretrained import fetch, fetch_wheel

RATE = 16000
"""Samples a second of speech."""

# Pictures inside wheels. Half of ImageNet's show people or what they carry.
_PICTURES = {
    "astronaut": ("scikit-image==0.25.2", "skimage/data/astronaut.png"),
    "cat": ("scikit-image==0.25.2", "skimage/data/chelsea.png"),
    "coffee": ("scikit-image==0.25.2", "skimage/data/coffee.png"),
    "photographer": ("scikit-image==0.25.2", "skimage/data/camera.png"),
    "beaker": ("foolbox==3.3.4", "foolbox/data/imagenet_02_438.jpg"),
    "dalmatian": ("foolbox==3.3.4", "foolbox/data/imagenet_16_251.jpg"),
}
PICTURES = tuple(_PICTURES)


def picture(name: str) -> Image.Image:
    """A photograph, in RGB."""
    wheel, file = _PICTURES[name]
    return Image.open(fetch_wheel(wheel) / file).convert("RGB")


def line(text: str, *, height: int = 48) -> Image.Image:
    """A line of dark text on a light ground, as high as asked for and as wide as it gets."""
    font = ImageFont.load_default(size=height * 0.65)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + height // 2, height), (245, 240, 230))
    place = (height // 4 - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(image).text(place, text, (30, 25, 60), font=font)
    return image


def page(lines: tuple[str, ...], *, size: int = 640) -> Image.Image:
    """A square page with the lines spread over it, each further to the right."""
    image = Image.new("RGB", (size, size), (245, 240, 230))
    for index, text in enumerate(lines):
        image.paste(line(text, height=36 + 6 * (index % 3)), (20 + 25 * index, 30 + index * size // len(lines)))
    return image


def speech(text: str = "The quick brown fox jumps over the lazy dog near the river bank.") -> np.ndarray:
    """Somebody speaks: float32 samples in [-1, 1]; espeak-ng where it is installed, elsewhere `synthetic_speech`."""
    program = shutil.which("espeak-ng")
    if program is None:
        return synthetic_speech()
    spoken = subprocess.run([program, "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as stream:
        rate = stream.getframerate()
        data = stream.readframes(stream.getnframes())
    samples = np.frombuffer(data[: len(data) // 2 * 2], np.int16) / np.float32(32768)
    places = np.arange(0, len(samples) - 1, rate / RATE)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def synthetic_speech(seconds: float = 3.0) -> np.ndarray:
    """Vowels, a syllable each: harmonics of a voice that rises and falls, shaped by the formants of a vocal tract.

    The source-filter model of speech (Fant, 1960); formants after Peterson and Barney (1952).
    """
    random = np.random.default_rng(7)
    vowels = np.array([(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)])
    time = np.arange(int(seconds * RATE)) / RATE
    syllable = time * 5.0  # a second
    targets = vowels[random.integers(0, len(vowels), int(syllable[-1]) + 2)]
    glide = np.clip((syllable % 1 - 0.75) * 4, 0, 1)[:, None]
    index = syllable.astype(int)
    formants = targets[index] * (1 - glide) + targets[index + 1] * glide
    pitch = 125 + 20 * np.sin(2 * np.pi * 0.8 * time) + 6 * np.sin(2 * np.pi * 3.1 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE

    voice = np.zeros_like(time)
    for harmonic in range(1, 31):
        frequency = harmonic * pitch
        width = np.array([80.0, 110.0, 160.0])
        gain = sum(
            weight / (1 + ((frequency - formants[:, number]) / width[number]) ** 2)
            for number, weight in enumerate((1.0, 0.6, 0.35))
        )
        voice += (gain + 0.02) / harmonic**0.5 * np.sin(harmonic * phase)
    envelope = np.clip(np.sin(np.pi * (syllable % 1)) * 1.6, 0, 1) ** 0.7
    breath = random.standard_normal(len(time)) * 0.02
    sound = (voice + breath) * envelope
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def files() -> dict[str, bytes]:
    """Contents of files by their type, as magika names it."""
    skimage, foolbox = fetch_wheel("scikit-image==0.25.2") / "skimage", fetch_wheel("foolbox==3.3.4") / "foolbox"
    root = Path(__file__).parents[2]
    table = {"model": "detector", "scores": [0.25, 0.5, 1e-3], "nested": {"empty": None, "flag": True}}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("letter.txt", "Dear reader, nothing in here is of any importance.\n" * 40)
        archive.writestr("numbers.csv", "\n".join(f"{n},{n * n}" for n in range(500)))
    paragraphs = "".join(f"<p class='text'>Paragraph <b>{n}</b> of a page.</p>\n" for n in range(40))
    rows = "".join(f"{n},name {n},{n * 1.5:.2f},{n % 3 == 0}\n" for n in range(200))
    return {
        "python": (foolbox / "utils.py").read_bytes(),
        "png": (skimage / "data" / "coins.png").read_bytes(),
        "jpeg": (foolbox / "data" / "imagenet_00_243.jpg").read_bytes(),
        "npy": (skimage / "data" / "lfw_subset.npy").read_bytes(),
        "onnx": fetch("nudenet").read_bytes(),
        "c": (root / "lepton_compile" / "runtime" / "lepton_pool.h").read_bytes(),
        "markdown": (root / "CONTRIBUTING.md").read_bytes(),
        "toml": (root / "pyproject.toml").read_bytes(),
        "zip": packed.getvalue(),
        "json": json.dumps([table] * 30, indent=1).encode(),
        "html": f"<!DOCTYPE html>\n<html><head><title>A page</title></head>\n<body>{paragraphs}</body></html>".encode(),
        "csv": ("number,name,price,third\n" + rows).encode(),
        "pdf": _pdf("Nothing on this page is of any importance."),
    }


def _pdf(text: str) -> bytes:
    """A document of one page, its objects and their offsets as ISO 32000 has them."""
    content = f"BT /F1 18 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    document, offsets = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    xref = b"xref\n0 %d\n0000000000 65535 f \n%b" % (count, table)
    return document + xref + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(document))
