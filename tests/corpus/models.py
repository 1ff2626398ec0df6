"""Which models there are, and where their files lie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from filelock import FileLock
from pretrained import PRETRAINED, cache_folder, fetch

from corpus import light, minilm

LIGHT_NETS = tuple(f"light-{name}" for name in light.NETS)
SILEROS = tuple(name for name in PRETRAINED if name.startswith("silero"))
REAL_CNNS = ("ppocr-det", "ppocr-rec", "ppocr-cls", "nudenet", "open-nsfw")
CNNS = REAL_CNNS + LIGHT_NETS
NAMES = (*REAL_CNNS, *SILEROS, "magika", "minilm", *LIGHT_NETS)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shape of every input of a model."""
    if name == "minilm":
        return dict.fromkeys(minilm.INPUTS, (1, 128))
    if name in LIGHT_NETS:
        return {light.NETS[name.removeprefix("light-")]: (1, 3, 224, 224)}
    return dict(PRETRAINED[name].shapes)


def model_path(name: str) -> Path:
    """The model's file, fetched or built if it is not in the cache yet."""
    if name == "minilm":
        return _built(name, [Path(minilm.__file__)], lambda: minilm.build(fetch("minilm-weights")))
    if name in LIGHT_NETS:
        return _built(name, [Path(light.__file__)], lambda: light.build(name.removeprefix("light-")))
    return fetch(name)


def trained_path(name: str, widths: Sequence[int] | None = None, seed: int = 0) -> Path:
    """The file of a net of `corpus.digit_nets`, trained if it is not in the cache yet.

    Args:
        name: The net.
        widths: Those that replace the published ones.
        seed: Of the first weights, and of the order of the digits.

    Raises:
        ModuleNotFoundError: It has to be trained, and PyTorch is not there; says how to get it.
    """
    sources = [Path(__file__).with_name(source) for source in ("digit_nets.py", "digits.py", "training.py")]

    def build() -> onnx.ModelProto:
        try:
            from corpus import training
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}: nets are trained with PyTorch; pip install -e '.[train]'") from error
        return training.build(name, widths, seed)

    variant = (
        "" if widths is None and seed == 0 else f".{hashlib.sha256(repr((widths, seed)).encode()).hexdigest()[:12]}"
    )
    return _built(f"trained-{name}{variant}", sources, build)


def _built(name: str, builders: Sequence[Path], build: Callable[[], onnx.ModelProto]) -> Path:
    """A model that is made, not fetched; made anew when what makes it has changed."""
    source = hashlib.sha256(b"".join(builder.read_bytes() for builder in builders)).hexdigest()[:12]
    path = cache_folder() / f"{name}-{source}.onnx"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            for outdated in path.parent.glob(f"{name}-*.onnx"):
                outdated.unlink()
            beside = path.with_suffix(".partial")
            onnx.save(build(), beside)
            beside.rename(path)
    return path
