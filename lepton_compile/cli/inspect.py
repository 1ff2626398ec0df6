"""`lepton inspect`: what a model needs, or what a compiled one is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import lepton_compile
from lepton_compile.cli.table import format_shape, format_size, print_table
from lepton_compile.reporting.quantities import format_bytes


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|FOLDER", help="An ONNX file, or what `lepton compile` wrote.")],
) -> None:
    """Show a model's inputs, outputs, operators and size, or a compiled model's target, passes, kernels and memory."""
    if path.is_dir():
        _show_folder(path)
    else:
        _show_model(path)


def _show_folder(folder: Path) -> None:
    model = lepton_compile.load(folder, verify=True)
    memory, versions = model.manifest["memory"], model.manifest["versions"]
    typer.echo(f"{model.name} for {model.manifest['target']['name']} ({model.manifest['triple']})\n")
    rows = [("input", tensor) for tensor in model.inputs] + [("output", tensor) for tensor in model.outputs]
    print_table((kind, tensor.name, tensor.dtype, format_shape(tensor.shape)) for kind, tensor in rows)
    typer.echo("\nmemory")
    print_table(
        (
            ("  library", format_bytes(model.manifest["library"]["bytes"])),
            ("  of which weights", format_bytes(memory["weights_bytes"])),
            ("  arena of an instance", format_bytes(memory["arena_bytes"])),
            ("  peak of one instance, weights included", format_bytes(memory["peak_bytes"])),
        )
    )
    if model.variants:
        typer.echo("\nvariants, the best first")
        print_table(
            (
                (
                    f"  {variant.name}",
                    f"{variant.seconds * 1e3:.4g}",
                    format_bytes(variant.arena_bytes),
                    format_bytes(variant.weights_bytes),
                )
                for variant in model.variants
            ),
            header=("  variant", "ms on one thread", "arena", "weights read"),
        )
    typer.echo(f"\nkernels{f' of {model.variants[0].name}' if model.variants else ''}")
    families: dict[str, list[int]] = {}
    for kernel in model.manifest["kernels"]:
        counts = families.setdefault(kernel["family"], [0, 0, 0])
        for index, count in enumerate((1, kernel["calls"], kernel["calls"] * kernel["operations"])):
            counts[index] += count
    print_table(
        (
            (f"  {family}", kernels, calls, f"{operations / 1e9:.3f}")
            for family, (kernels, calls, operations) in sorted(families.items(), key=lambda item: -item[1][2])
        ),
        header=("  family", "kernels", "calls", "GFLOP"),
    )
    plan = model.plan or {}
    for title, answers in (("passes", "steps"), ("passes with nothing (more) to do", "declined")):
        if plan.get(answers):
            typer.echo(f"\n{title}")
            print_table((f"  {answer['pass']}", answer["stage"], answer["reason"]) for answer in plan[answers])
    typer.echo(f"\nmade by {', '.join(f'{name} {version}' for name, version in versions.items())}")


def _show_model(path: Path) -> None:
    from lepton_compile.model.load import read_model
    from lepton_compile.model.shapes import is_static
    from lepton_compile.model.to_onnx import constants

    graph = lepton_compile.Graph.from_model(*read_model(path))
    typer.echo(f"{graph.name or path.stem}: operator set {graph.opset}\n")
    rows = [("input", tensor) for tensor in graph.gs.inputs] + [("output", tensor) for tensor in graph.gs.outputs]
    print_table((kind, tensor.name, tensor.dtype or "?", format_shape(tensor.shape)) for kind, tensor in rows)
    if unbound := [tensor for tensor in graph.gs.inputs if not is_static(tensor.shape)]:
        shapes = (f"--shape {tensor.name}={','.join(map(format_size, tensor.shape or ('...',)))}" for tensor in unbound)
        typer.echo(f"\nto compile it, bind its sizes to numbers: {' '.join(shapes)}")

    weights = [constant.values for constant in constants(graph.gs)]
    size = format_bytes(sum(array.nbytes for array in weights))
    typer.echo(f"\n{sum(array.size for array in weights):,} parameters ({size})")
    operators = Counter(f"{node.domain or ''}.{node.op}".lstrip(".") for node in graph.nodes())
    typer.echo(f"\n{operators.total():,} operators")
    print_table((f"  {name}", count) for name, count in sorted(operators.items(), key=lambda item: (-item[1], item[0])))
