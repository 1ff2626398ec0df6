"""Reading a page with PP-OCR's three models: where text is, which way up it stands, what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from corpus.feeds import line_pixels, text_pixels
from corpus.meaning import Answer, read_text, text_regions

Engine = Callable[[Answer], Answer]

# How sure the classifier has to be that a line stands upside down.
_TURNED = 0.9


def read_page(page: Image.Image, engines: Mapping[str, Engine]) -> list[str]:
    """The lines of a page, from top to bottom.

    Args:
        page: 640 x 640 pixels.
        engines: What computes "ppocr-det", "ppocr-cls" and "ppocr-rec".
    """
    regions = text_regions(engines["ppocr-det"]({"x": text_pixels(page)[None]}))
    lines = []
    for region in sorted(regions, key=lambda each: (each.corners[1], each.corners[0])):
        left, top, right, bottom = map(round, region.corners)
        line = page.crop((left, top, right, bottom))
        (direction,) = engines["ppocr-cls"]({"x": line_pixels(line, 192)}).values()
        if float(np.reshape(direction, -1)[1]) > _TURNED:
            line = line.transpose(Image.Transpose.ROTATE_180)
        lines.append(read_text(engines["ppocr-rec"]({"x": line_pixels(line, 320)})))
    return lines
