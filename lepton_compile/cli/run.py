"""`lepton run`: run a compiled model once, on given or random inputs."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lepton_compile
from lepton_compile.cli.arrays import read_inputs
from lepton_compile.cli.options import Limits, read_limits, reason
from lepton_compile.cli.table import format_shape, print_table

if TYPE_CHECKING:
    import numpy.typing as npt

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
    adapt: Limits = None,
) -> None:
    """Run a compiled model and print its outputs in brief."""
    from lepton_compile.measuring.inputs import random_values

    limits = read_limits(adapt)
    model = lepton_compile.load(folder, threads=threads, verify=True)
    if limits and not model.adapt(**limits):
        typer.echo("no variant keeps the limits: the nearest one runs")
    inputs = read_inputs(input)
    missing = [tensor for tensor in model.inputs if tensor.name not in inputs]
    if missing:
        typer.echo(f"random inputs: {', '.join(tensor.name for tensor in missing)}")
        inputs |= random_values(missing)

    begin = time.perf_counter()
    model.run(inputs)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    outputs = model.run(inputs)
    seconds = time.perf_counter() - begin

    header = ("output", "type", "shape", "least", "mean", "greatest")
    print_table(((name, *_summary(array)) for name, array in outputs.items()), header)
    ran = "ran" if model.variant is None else f"variant {model.variant.name} ran"
    typer.echo(f"{ran} in {seconds * 1e3:.2f} ms (the first time, with setting up, in {first * 1e3:.2f} ms)")
    if output is not None:
        _write_arrays(output, outputs)
        typer.echo(f"wrote {output}")


def _summary(array: Array) -> tuple[str, ...]:
    figures = (array.min(), array.mean(dtype=float), array.max()) if array.size else ()
    return (str(array.dtype), format_shape(array.shape), *(f"{float(figure):.6g}" for figure in figures))


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
