"""`lepton bisect`: find what makes a compiled model leave onnxruntime's answers."""

from __future__ import annotations

import typer

import lepton_compile
from lepton_compile.cli.options import Model, Shapes, TargetOption, read_shapes
from lepton_compile.cli.progress import show_progress


def bisect(model: Model, target: TargetOption = "host", shape: Shapes = None) -> None:
    """Find the first pass, and then the first kernel, whose value leaves onnxruntime's."""
    with show_progress() as progress:
        report = lepton_compile.bisect(model, target, shapes=read_shapes(shape), progress=progress)
    typer.echo(str(report))
