"""`lepton explain`: what was decided about a compiled model, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import lepton_compile
from lepton_compile.cli.options import read_text
from lepton_compile.cli.table import print_table
from lepton_compile.reporting import sections


def explain(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `lepton compile` wrote.")],
) -> None:
    """Show the report on a compiled model: target, passes, layers, kernels, each decision with its reason."""
    model = lepton_compile.load(folder)
    names = [variant.name for variant in model.variants[1:]]
    others = {name: json.loads(read_text(folder / f"plan-{name}.json")) for name in names}
    for section in sections(model.manifest, model.plan or {}, model.steps, others):
        typer.echo(f"{section.title}\n")
        if section.text:
            typer.echo(f"{section.text}\n")
        if section.rows:
            print_table(section.rows, section.header)
            typer.echo()
