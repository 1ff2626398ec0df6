"""Views of photographs: crops, flips, changes of light, noise and mixes, each told by a few numbers.

Wheels carry a few dozen photographs. A view of one is another input for a model, and what it shows can be found by
search and kept as numbers, so that whoever renders it gets the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from pretrained import fetch_wheel

_FOLDERS = {
    "foolbox": ("foolbox==3.3.4", "foolbox/data"),
    "skimage": ("scikit-image==0.25.2", "skimage/data"),
    "sklearn": ("scikit-learn==1.9.1", "sklearn/datasets/images"),
    "ultralytics": ("ultralytics==8.3.0", "ultralytics/assets"),
}

# Every second photograph of ImageNet's, in the order of their names, is kept for judging; of the others, so are those
# that leave something of each kind (a person, an animal, a thing, a texture) on both sides.
CALIBRATION_PICTURES = (
    "foolbox/imagenet_00_243.jpg",
    "foolbox/imagenet_02_438.jpg",
    "foolbox/imagenet_04_949.jpg",
    "foolbox/imagenet_06_609.jpg",
    "foolbox/imagenet_08_915.jpg",
    "foolbox/imagenet_10_541.jpg",
    "foolbox/imagenet_12_741.jpg",
    "foolbox/imagenet_14_129.jpg",
    "foolbox/imagenet_16_251.jpg",
    "foolbox/imagenet_18_317.jpg",
    "skimage/coffee.png",
    "skimage/color.png",
    "skimage/grass.png",
    "skimage/ihc.png",
    "skimage/moon.png",
    "skimage/motorcycle_left.png",
    "sklearn/china.jpg",
)
HELD_OUT_PICTURES = (
    "foolbox/imagenet_01_559.jpg",
    "foolbox/imagenet_03_990.jpg",
    "foolbox/imagenet_05_853.jpg",
    "foolbox/imagenet_07_609.jpg",
    "foolbox/imagenet_09_455.jpg",
    "foolbox/imagenet_11_630.jpg",
    "foolbox/imagenet_13_471.jpg",
    "foolbox/imagenet_15_99.jpg",
    "foolbox/imagenet_17_22.jpg",
    "foolbox/imagenet_19_305.jpg",
    "skimage/astronaut.png",
    "skimage/camera.png",
    "skimage/chelsea.png",
    "skimage/coins.png",
    "skimage/gravel.png",
    "skimage/retina.jpg",
    "skimage/rocket.jpg",
    "sklearn/flower.jpg",
)


@dataclass(frozen=True)
class View:
    """A square view of a photograph.

    Attributes:
        picture: The photograph, as in `CALIBRATION_PICTURES`.
        left: Where the square begins, as a share of the width that it leaves.
        top: Where the square begins, as a share of the height that it leaves.
        side: Its side, as a share of the picture's shorter one.
        mirrored: Whether left and right change places.
        light: Factor of brightness.
        contrast: Factor of contrast.
        colour: Factor of saturation.
        blur: Radius of a Gaussian blur, in pixels of the result.
        noise: Standard deviation of added noise, of 255.
        mixed_with: Another photograph that is blended in as a whole; empty: none.
        share: How much of that one is seen.
    """

    picture: str
    left: float = 0.5
    top: float = 0.5
    side: float = 1.0
    mirrored: bool = False
    light: float = 1.0
    contrast: float = 1.0
    colour: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    mixed_with: str = ""
    share: float = 0.0

    def render(self, size: int) -> Image.Image:
        """The view in RGB, `size` pixels wide and high."""
        image = _square(photograph(self.picture), self.left, self.top, self.side, size)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.mixed_with:
            image = Image.blend(image, _square(photograph(self.mixed_with), 0.5, 0.5, 1.0, size), self.share)
        for enhance, factor in (
            (ImageEnhance.Brightness, self.light),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.colour),
        ):
            image = image if factor == 1 else enhance(image).enhance(factor)
        image = image.filter(ImageFilter.GaussianBlur(self.blur)) if self.blur else image
        return _noisy(image, self.noise) if self.noise else image


def random_view(random: np.random.Generator, pictures: tuple[str, ...]) -> View:
    """A view as a camera or a program for augmentation might give it."""
    mixed = bool(random.random() < 0.15)
    return View(
        picture=str(random.choice(pictures)),
        left=_rounded(random.uniform(0, 1)),
        top=_rounded(random.uniform(0, 1)),
        side=_rounded(random.uniform(0.4, 1)),
        mirrored=bool(random.random() < 0.5),
        light=_rounded(random.uniform(0.6, 1.4)),
        contrast=_rounded(random.uniform(0.7, 1.3)),
        colour=_rounded(random.uniform(0.5, 1.5)),
        blur=_rounded(random.uniform(0.5, 2)) if random.random() < 0.2 else 0.0,
        noise=_rounded(random.uniform(2, 12)) if random.random() < 0.2 else 0.0,
        mixed_with=str(random.choice(pictures)) if mixed else "",
        share=_rounded(random.uniform(0.1, 0.4)) if mixed else 0.0,
    )


@lru_cache(maxsize=64)
def photograph(name: str) -> Image.Image:
    """A photograph in RGB by its name, "wheel/file"."""
    wheel, _, file = name.partition("/")
    requirement, folder = _FOLDERS[wheel]
    return Image.open(fetch_wheel(requirement) / folder / file).convert("RGB")


def _square(image: Image.Image, left: float, top: float, side: float, size: int) -> Image.Image:
    length = max(8, round(side * min(image.size)))
    x, y = round(left * (image.width - length)), round(top * (image.height - length))
    return image.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + length, y + length))


def _noisy(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(0).standard_normal(pixels.shape, np.float32) * np.float32(deviation)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _rounded(value: float) -> float:
    return round(value, 3)
