"""Printed text: lines and pages in several typefaces, sizes and colours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from pretrained import fetch_wheel

# Sans, serif and fixed pitch, upright, italic and bold.
_LATO = ("font-lato==0.1.0", "font_lato/files/Lato-{}.ttf")
_CALADEA = ("font-caladea==0.0.2", "font_caladea/files/Caladea-{}.ttf")
_SANS = ("font-source-sans-pro==0.0.1", "font_source_sans_pro/files/SourceSansPro-{}.ttf")
_SERIF = ("font-source-serif-pro==0.0.1", "font_source_serif_pro/files/SourceSerifPro-{}.ttf")
_DEJAVU = ("matplotlib==3.11.2", "matplotlib/mpl-data/fonts/ttf/{}.ttf")
FONTS = tuple(
    (wheel, file.format(style))
    for (wheel, file), styles in {
        _LATO: ("Regular", "Bold", "Italic"),
        _CALADEA: ("Regular", "BoldItalic"),
        _SANS: ("Regular", "Semibold"),
        _SERIF: ("Regular", "It"),
        _DEJAVU: ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif-Bold"),
    }.items()
    for style in styles
)
"""The typefaces: a wheel and a file in it."""


def random_text(random: np.random.Generator, prose: tuple[str, ...], words: int) -> str:
    """As it stands on receipts, signs and pages: some words of a sentence of `prose`, or a name with a number."""
    kind = random.random()
    if kind < 0.2:
        return f"{_choice(random, _LABELS)} {random.integers(1, 10000):,}.{random.integers(0, 100):02d}"
    if kind < 0.35:
        day = f"{random.integers(2000, 2030)}-{random.integers(1, 13):02d}-{random.integers(1, 29):02d}"
        return f"{_choice(random, _LABELS)} {day}"
    sentence = _choice(random, prose).rstrip(".").split()
    start = int(random.integers(0, max(1, len(sentence) - words)))
    text = " ".join(sentence[start : start + words])
    return text.upper() if kind > 0.9 else text


def random_line(random: np.random.Generator, text: str, height: int = 48) -> Image.Image:
    """A line, dark on light or light on dark, as wide as it gets; at times blurred, noisy or a little turned."""
    font = _font(int(random.integers(0, len(FONTS))), int(height * random.uniform(0.5, 0.72)))
    paper, ink = random.integers(190, 256, 3), random.integers(0, 90, 3)
    if random.random() < 0.25:
        paper, ink = ink, paper
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + height // 2, height), tuple(paper.tolist()))
    place = (height // 4 - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(image).text(place, text, tuple(ink.tolist()), font=font)
    if random.random() < 0.25:
        image = image.rotate(random.uniform(-1.2, 1.2), Image.Resampling.BICUBIC, fillcolor=tuple(paper.tolist()))
    if random.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.9)))
    if random.random() < 0.25:
        pixels = np.asarray(image, np.float32) + random.standard_normal((*image.size[::-1], 3)) * random.uniform(2, 10)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image


def random_page(random: np.random.Generator, background: Image.Image, prose: tuple[str, ...]) -> Image.Image:
    """Lines of several heights pasted one under another on a background."""
    page, top = background.copy(), int(random.integers(8, 40))
    while True:
        height = int(random.integers(22, 64))
        if top + height > page.height:
            return page
        line = random_line(random, random_text(random, prose, int(random.integers(1, 6))), height)
        line = line.crop((0, 0, min(line.width, page.width), height))
        page.paste(line, (int(random.integers(0, page.width - line.width + 1)), top))
        top += height + int(random.integers(10, 60))


@lru_cache(maxsize=256)
def _font(index: int, size: int) -> ImageFont.FreeTypeFont:
    wheel, file = FONTS[index]
    return ImageFont.truetype(fetch_wheel(wheel) / file, size)


def _choice(random: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(random.integers(0, len(values)))]


_LABELS = ("Total", "TOTAL EUR", "Invoice No.", "Room", "Gate", "Order #", "Tel.", "Price:", "No.", "Amount due", "Due")
