"""`lepton inspect`: what a model needs, or what a compiled one is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lepton_compile
from lepton_compile.cli.table import format_bytes, format_shape, print_table

if TYPE_CHECKING:
    import onnx


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|FOLDER", help="An ONNX file, or what `lepton compile` wrote.")],
) -> None:
    """Show a model's inputs, outputs, operators and size, or a compiled model's target, passes, kernels and memory."""
    if path.is_dir():
        _show_folder(path)
    else:
        _show_model(path)


def _show_folder(folder: Path) -> None:
    model = lepton_compile.load(folder)
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
        )
    )
    typer.echo("\nkernels")
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
    if model.plan is not None:
        typer.echo("\npasses")
        print_table((f"  {step['pass']}", step["stage"], step["reason"]) for step in model.plan["steps"])
        typer.echo("\npasses with nothing (more) to do")
        print_table((f"  {step['pass']}", step["stage"], step["reason"]) for step in model.plan["declined"])
    typer.echo(f"\nmade by {', '.join(f'{name} {version}' for name, version in versions.items())}")


def _show_model(path: Path) -> None:
    import onnx

    from lepton_compile.model import read_model

    model = read_model(path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer} | {
        tensor.values.name for tensor in graph.sparse_initializer
    }
    inputs = [value for value in graph.input if value.name not in weights]
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    typer.echo(f"{graph.name or path.stem}: opset {opsets}; IR version {model.ir_version}\n")
    rows = [("input", value) for value in inputs] + [("output", value) for value in graph.output]
    print_table((kind, value.name, *_type(value)) for kind, value in rows)
    if open_inputs := [value for value in inputs if not all(isinstance(size, int) for size in _sizes(value))]:
        shapes = " ".join(f"--shape {value.name}={','.join(map(str, _sizes(value)))}" for value in open_inputs)
        typer.echo(f"\nto compile it, give numbers for the names: {shapes}")

    parameters = [(math.prod(tensor.dims), tensor.data_type) for tensor in _weights(graph)]
    size = sum(count * onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize for count, dtype in parameters)
    typer.echo(f"\nparameters  {sum(count for count, _ in parameters):,} ({format_bytes(size)})")
    typer.echo(f"\noperators   {sum(1 for _ in _nodes(graph)):,}")
    operators = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in _nodes(graph))
    print_table((f"  {name}", count) for name, count in sorted(operators.items(), key=lambda item: (-item[1], item[0])))


def _type(value: onnx.ValueInfoProto) -> tuple[str, str]:
    import onnx

    if not value.type.HasField("tensor_type"):
        return value.type.WhichOneof("value") or "unknown", ""
    dtype = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    shape = format_shape(_sizes(value)) if value.type.tensor_type.HasField("shape") else "of unknown rank"
    return {"float": "float32", "double": "float64"}.get(dtype, dtype), shape


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    """The sizes of a tensor; a name, or "?" where it has none, for those that are open."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant tensor, those of subgraphs and Constant nodes included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _weights(subgraph)
