"""`lepton bench`: how fast a compiled model is, beside other engines, and where its time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lepton_compile
from lepton_compile.cli.arrays import read_inputs
from lepton_compile.cli.options import Limits, read_limits, require_writable, write_text
from lepton_compile.cli.table import print_table

if TYPE_CHECKING:
    from lepton_compile.measuring.tables import Rows


def bench(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `lepton compile` wrote.")],
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads of every engine; all processors by default.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Engines to measure in turn with it: onnxruntime, openvino, ncnn."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The ONNX file of FOLDER, for the other engines.")
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="An input; random where not given.")
    ] = None,
    adapt: Limits = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="How long to measure latencies.")] = 3.0,
    profile: Annotated[bool, typer.Option("--profile", help="Show the time of every step as well.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was measured as JSON.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page, with a chart of the steps.")
    ] = None,
) -> None:
    """Measure the latency of a compiled model on this machine."""
    from lepton_compile.measuring.page import page
    from lepton_compile.measuring.tables import engine_rows, family_rows, step_rows

    files = [path for path in (json_file, html_file) if path is not None]
    for path in files:
        require_writable(path)
    measured = lepton_compile.bench(
        folder,
        threads=threads,
        **read_limits(adapt),
        inputs=read_inputs(input),
        against=tuple(name.strip() for name in (against or "").split(",") if name.strip()),
        model=model,
        seconds=seconds,
        profile=profile or html_file is not None,
    )
    if measured.random_inputs:
        typer.echo(f"random inputs: {', '.join(measured.random_inputs)}")
    typer.echo(f"{measured.processor}, {measured.threads} thread{'s' if measured.threads > 1 else ''}\n")
    if measured.variant:
        typer.echo(f"variant {measured.variant}\n")
    _print(engine_rows(measured))
    for name, engine in measured.engines.items():
        if engine.problem:
            typer.echo(f"{name}: {engine.problem}")
    if profile:
        typer.echo("")
        _print(step_rows(measured))
        typer.echo("")
        _print(family_rows(measured))
        if measured.roofline is not None:
            typer.echo(f"\npeak {measured.roofline.peak / 1e9:.1f} GFLOP/s")
    if measured.note:
        typer.echo(f"note: {measured.note}")
    if json_file is not None:
        write_text(json_file, json.dumps(measured.to_json(), indent=1) + "\n")
    if html_file is not None:
        write_text(html_file, page(measured))
    for path in files:
        typer.echo(f"wrote {path}")


def _print(table: Rows) -> None:
    header, rows = table
    print_table(rows, header=header)
