"""Fingerprints of calibration data: equal for equal samples, and nothing of a sample can be read off them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_compile.evaluation.samples import Data

Array: TypeAlias = npt.NDArray[Any]


def fingerprint_of(data: Data) -> str | None:
    """SHA-256 of calibration data; None where it is not there as a whole, or holds what has no bytes of its own.

    Arrays, files, folders, and lists of samples have one. An iterator would be used up, and a callable or a label that
    is some object may stand for something else next time.

    Args:
        data: See `lepton_compile.evaluation.samples`.
    """
    digest = hashlib.sha256()
    try:
        if isinstance(data, str | os.PathLike):
            _add_path(digest, Path(data))
        else:
            _add(digest, data)
    except (TypeError, OSError):
        return None
    return digest.hexdigest()


def add_array(digest: hashlib._Hash, array: Array) -> None:
    """Add an array's type, shape and values to a hash.

    Raises:
        TypeError: Its elements are Python objects.
    """
    if array.dtype.hasobject:
        raise TypeError("objects have no bytes of their own")
    digest.update(f"array {array.dtype.str} {array.shape};".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _add(digest: hashlib._Hash, value: object) -> None:
    """Add a value; each says first what it is and how long, so that no two values read alike."""
    if isinstance(value, str):
        digest.update(f"text {len(value)} {value};".encode())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)};".encode())
        for name, each in sorted(value.items(), key=lambda item: str(item[0])):
            digest.update(f"{len(str(name))} {name};".encode())
            _add(digest, each)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)};".encode())
        for each in value:
            _add(digest, each)
    elif isinstance(value, np.ndarray | np.generic | int | float | bool):
        add_array(digest, np.asarray(value))
    else:
        raise TypeError(f"{type(value).__name__} has no fingerprint")


def _add_path(digest: hashlib._Hash, path: Path) -> None:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.suffix in (".npy", ".npz") or file == path:
            digest.update(f"file {len(file.name)} {file.name} {file.stat().st_size};".encode())
            with file.open("rb") as stream:
                while part := stream.read(1 << 20):
                    digest.update(part)
