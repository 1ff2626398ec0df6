"""Arrays that the user names as files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lepton_compile.cli.options import read_pairs, reason

if TYPE_CHECKING:
    import numpy.typing as npt


def read_inputs(texts: Iterable[str] | None) -> dict[str, npt.NDArray[Any]]:
    """Read `--input` texts of the form NAME=FILE.npy.

    Raises:
        typer.BadParameter: A text is of another form, or a file holds no array.
    """
    return {name: _read_array(Path(path)) for name, path in read_pairs("--input", texts).items()}


def _read_array(path: Path) -> npt.NDArray[Any]:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise typer.BadParameter(f"cannot read {path}: {reason(error)}", param_hint="'--input'") from error
    if not isinstance(array, np.ndarray):
        raise typer.BadParameter(f"{path} holds several arrays; an input is a .npy file", param_hint="'--input'")
    return array
