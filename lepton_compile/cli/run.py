"""`lepton run`: run a compiled model once, on given or random inputs."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lepton_compile
from lepton_compile.cli.options import read_pairs, reason
from lepton_compile.cli.table import format_shape, print_table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lepton_compile.runtime.loader import Tensor

    Array = npt.NDArray[Any]


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `lepton compile` wrote.")],
    input: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="An input; random where not given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE.npz", help="Write the outputs to this file.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads to run on; all processors by default.")
    ] = None,
) -> None:
    """Run a compiled model and print its outputs in brief."""
    import numpy as np

    model = lepton_compile.load(folder, threads=threads)
    inputs = {name: _read_array(Path(path)) for name, path in read_pairs("--input", input).items()}
    missing = [tensor for tensor in model.inputs if tensor.name not in inputs]
    if missing:
        typer.echo(f"random inputs: {', '.join(tensor.name for tensor in missing)}")
        random = np.random.default_rng(0)
        inputs |= {tensor.name: _random_array(tensor, random) for tensor in missing}

    begin = time.perf_counter()
    model.run(inputs)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    outputs = model.run(inputs)
    seconds = time.perf_counter() - begin

    header = ("output", "type", "shape", "least", "mean", "greatest")
    print_table(((name, *_summary(array)) for name, array in outputs.items()), header)
    typer.echo(f"ran in {seconds * 1e3:.2f} ms (the first time, with setting up, in {first * 1e3:.2f} ms)")
    if output is not None:
        _write_arrays(output, outputs)
        typer.echo(f"wrote {output}")


def _random_array(tensor: Tensor, random: np.random.Generator) -> Array:
    """Normally distributed floats. Integers are 0 or 1: they may be indices, which must not reach out of anything."""
    shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
    array = random.standard_normal(shape) if tensor.numpy_dtype.kind == "f" else random.integers(0, 2, shape)
    return array.astype(tensor.numpy_dtype)


def _summary(array: Array) -> tuple[str, ...]:
    figures = (array.min(), array.mean(dtype=float), array.max()) if array.size else ()
    return (str(array.dtype), format_shape(array.shape), *(f"{float(figure):.6g}" for figure in figures))


def _read_array(path: Path) -> Array:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise typer.BadParameter(f"cannot read {path}: {reason(error)}", param_hint="'--input'") from error
    if not isinstance(array, np.ndarray):
        raise typer.BadParameter(f"{path} holds several arrays; an input is a .npy file", param_hint="'--input'")
    return array


def _write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz; numpy.savez takes names as keyword arguments, among which `file` is taken."""
    import numpy as np

    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {reason(error)}", param_hint="'-o'") from error
