"""`lepton compile`: a model and a target in, the folder of a native library out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import lepton_compile
from lepton_compile.cli.options import (
    Shapes,
    TargetOption,
    read_budget,
    read_duration,
    read_passes,
    read_shapes,
    read_text,
)
from lepton_compile.cli.progress import show_progress
from lepton_compile.reporting.quantities import format_bytes
from lepton_compile.runtime.loader import CompiledModel, check_destination


def compile(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help="An ONNX file; or a family of them, of which the largest is taken that fits."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where to write; MODEL.lepton by default.")
    ] = None,
    target: TargetOption = "host",
    shape: Shapes = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prefix of the library's symbols; the file's name by default.")
    ] = None,
    passes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these passes, as `lepton passes` names them.")
    ] = None,
    plan: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Replay a saved plan, of variants one after the other; nothing is decided."),
    ] = None,
    tuning: Annotated[
        str | None,
        typer.Option(
            metavar="measure|model|FILE",
            help="How kernels choose algorithms: measured on this machine (once), by a model, or by a tuning.json.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="latency=5ms,size=4MB,memory=64MB,drop=1%",
            help="What the library and a run of it may take, and how much the metric may drop.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Samples that let layers be quantized: an .npz file, or a folder of arrays."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="What may not drop: cosine, top1, relative_error, channel_error.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Part of the name that decisions are cached under: a new one decides anew."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="10m", help="Try other plans for so long, and take the best; stopped, it goes on there."),
    ] = None,
    variants: Annotated[
        int, typer.Option(metavar="N", help="Variants that the library chooses among where it runs, at most.")
    ] = 1,
    exact_order: Annotated[
        bool,
        typer.Option(
            "--exact-order",
            help="Only sums of products of the model's own numbers: no Winograd; NaN stays where it belongs.",
        ),
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with onnxruntime after every pass.")] = False,
    dump: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the graph after every pass, as ONNX.")
    ] = None,
) -> None:
    """Compile MODEL, or the largest of several that fits, into a folder: a native library, its C header, a manifest."""
    if output is None and len(models) > 1:
        raise typer.BadParameter(
            "which of several models is compiled depends on the budget: say where to write it (-o)"
        )
    folder = output or Path(f"{models[0].stem}.lepton")
    check_destination(folder)
    shapes = read_shapes(shape)
    replayed = [lepton_compile.Plan.from_json(read_text(each)) for each in plan] if plan else None
    begin = time.perf_counter()
    with show_progress() as progress:
        compiled = lepton_compile.compile(
            models if len(models) > 1 else models[0],
            target,
            name=name,
            shapes=shapes,
            passes=read_passes(passes),
            calibration=calibration,
            metric=metric,
            key=key,
            plan=replayed,
            tuning=tuning,
            budget=read_budget(budget),
            search=read_duration("--search", search),
            variants=variants,
            exact_order=exact_order,
            verify=verify,
            dump=dump,
            progress=progress,
        )
        compiled.save(folder)
    for line in _decisions(compiled, judged=calibration is not None):
        typer.echo(line)
    for note in compiled.manifest["notes"]:
        typer.echo(f"note: {note}", err=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    typer.echo(f"wrote {folder} ({format_bytes(size)}) for {target} in {time.perf_counter() - begin:.1f} s")


def _decisions(compiled: CompiledModel, judged: bool) -> Iterator[str]:
    """What approximate passes did, of each variant; and where there were samples to judge, why others did nothing."""
    manifest, plan = compiled.manifest, compiled.plan or {}
    for member in plan.get("family", ()):
        yield f"{member['model']} does not fit: {member['why']}"
    for variant in manifest.get("variants") or [manifest | {"name": ""}]:
        begin = f"{variant['name']}: " if variant["name"] else ""
        for step in variant["passes"]:
            if not step["exact"]:
                yield f"{begin}{step['pass']}: {step['reason']}"
    done = {step["pass"] for step in manifest["passes"]}
    lossy = {entry.name for entry in lepton_compile.list_passes() if judged and not entry.exact}
    for answer in plan.get("declined", ()):
        if answer["pass"] in lossy - done:
            yield f"{answer['pass']} changes nothing: {answer['reason']}"
