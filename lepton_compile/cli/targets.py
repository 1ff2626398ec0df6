"""`lepton targets`: what can be compiled for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import lepton_compile
from lepton_compile.cli.options import write_text
from lepton_compile.cli.table import print_table
from lepton_compile.target import Score, Target, measure_host, score
from lepton_compile.target.toml_writer import toml_text

targets = typer.Typer(name="targets", invoke_without_command=True)


@targets.callback()
def list_targets(context: typer.Context) -> None:
    """List the targets; `show NAME` prints one of them, `sense` describes this machine."""
    if context.invoked_subcommand is None:
        print_table(
            (
                (
                    target.name,
                    target.triple,
                    target.cpu,
                    "-" if target.takes_llvm() else f"{score(target).value:.2f}",
                    target.description,
                )
                for target in lepton_compile.list_targets()
            ),
            header=("target", "triple", "cpu", "score", "description"),
        )


@targets.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A target's name or file.")]) -> None:
    """Print a target as a target file, with what it inherits and the score of its resources."""
    target = lepton_compile.resolve_target(name)
    typer.echo(f"{_comment(score(target))}\n{target.to_toml()}", nl=False)


@targets.command()
def sense(
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write it to this file.")] = None,
) -> None:
    """Describe this machine in a target file, which another machine can compile for.

    Memory bandwidth is measured, in about half a second; other work on the machine makes it smaller.
    """
    host = measure_host()
    text = _carried(host)
    # On a device there is no LLVM to ask about a processor that is not known otherwise.
    if not host.takes_llvm():
        text = f"{_comment(score(host))}\n{text}"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"{output} describes this machine; compile for it with --target {output}")


def _carried(host: Target) -> str:
    """The file of this machine that is read on another, where "host" is that one."""
    document = replace(host, description=host.description.removeprefix("this machine: ")).describe()
    del document["name"]  # the file's
    return toml_text(document)


def _comment(found: Score) -> str:
    """A score as comments in a target file."""
    lines = [f"score {found.value:.2f}, from 0, a small device, to 1, a server; weight and rating of each resource:"]
    for rating in found.ratings:
        value = "   -" if rating.value is None else f"{rating.value:.2f}"
        lines.append(f"  {rating.weight:.2f}  {value}  {rating.resource}: {rating.figure}")
    return "".join(f"# {line}\n" for line in lines)
