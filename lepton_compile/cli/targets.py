"""`lepton targets`: what can be compiled for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lepton_compile
from lepton_compile.cli.options import write_text
from lepton_compile.cli.table import print_table

targets = typer.Typer(name="targets", invoke_without_command=True)


@targets.callback()
def list_targets(context: typer.Context) -> None:
    """List the targets; `show NAME` prints one of them, `sense` describes this machine."""
    if context.invoked_subcommand is None:
        print_table(
            ((target.name, target.triple, target.cpu, target.description) for target in lepton_compile.list_targets()),
            header=("target", "triple", "cpu", "description"),
        )


@targets.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A target's name or file.")]) -> None:
    """Print a target as a target file, with what it inherits."""
    typer.echo(lepton_compile.resolve_target(name).to_toml(), nl=False)


@targets.command()
def sense(
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write it to this file.")] = None,
) -> None:
    """Describe this machine in a target file, which another machine can compile for."""
    text = lepton_compile.sense_host().to_toml()
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"{output} describes this machine; compile for it with --target {output}")
