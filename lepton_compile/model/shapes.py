"""Shapes: bound at the inputs, inferred everywhere else."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from lepton_compile.errors import LeptonError, ModelError, ShapeError
from lepton_compile.model.from_onnx import Dim, type_from_onnx
from lepton_compile.model.traversal import subgraphs, walk

# What ONNX's shape inference says of a node, where it is not that the trouble is in a subgraph.
COMPLAINT = re.compile(r"\(op_type:(\w+), node name: (.*?)\): (?:\[(\w+)\] )?(?!\[|Inference error)([^\n]*)")


def bind_shapes(graph: gs.Graph, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give every input of the graph a static shape.

    A symbolic dimension that one input binds is bound wherever its name occurs.

    Args:
        graph: Its inputs' shapes are replaced.
        shapes: The shape of each input that has dimensions to bind; it may repeat those that are static.

    Raises:
        ShapeError: A name is no input's, a shape contradicts the model or another shape, or a dimension is left.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for name in shapes:
        if name not in inputs:
            raise _unknown_input(name, list(inputs))
    asked = {name: _sizes(name, sizes) for name, sizes in shapes.items()}
    symbols: dict[str, tuple[int, str]] = {}
    for name, sizes in asked.items():
        for index, (dim, size) in enumerate(zip(_declared(inputs[name], sizes), sizes, strict=True)):
            if isinstance(dim, str):
                bound, by = symbols.setdefault(dim, (size, name))
                if bound != size:
                    raise ShapeError(
                        f"dimension '{dim}' is {bound} in input '{by}' but {size} in input '{name}' (axis {index}):"
                        " give both the same size",
                        inputs=(by, name),
                        dimension=dim,
                        sizes=(bound, size),
                    )
    unbound: dict[str, tuple[Dim, ...] | None] = {}
    for name, tensor in inputs.items():
        declared = asked.get(name, tensor.shape)
        if declared is not None:
            declared = tuple(symbols[dim][0] if isinstance(dim, str) and dim in symbols else dim for dim in declared)
        if declared is None or not all(isinstance(dim, int) and dim > 0 for dim in declared):
            unbound[name] = declared
        tensor.shape = declared
    if unbound:
        raise _unbound(unbound)


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(size) for size in sizes)
    except TypeError as error:
        raise ShapeError(f"the shape of input '{name}' must be whole numbers, not {sizes!r}", inputs=(name,)) from error
    if any(size <= 0 for size in shape):
        raise ShapeError(f"the shape of input '{name}' must be of positive sizes, not {list(shape)}", inputs=(name,))
    return shape


def _declared(tensor: gs.Tensor, sizes: tuple[int, ...]) -> tuple[Dim, ...]:
    """What the model says of an input, which the sizes asked for must not contradict."""
    declared: tuple[Dim, ...] | None = tensor.shape
    if declared is None:
        return (None,) * len(sizes)
    facts = {"inputs": (tensor.name,), "declared": declared, "shape": sizes}
    if len(declared) != len(sizes):
        raise ShapeError(
            f"input '{tensor.name}' has {len(declared)} dimensions {_written(declared)}, not {len(sizes)}:"
            f" {list(sizes)} does not fit",
            **facts,
        )
    for axis, (dim, size) in enumerate(zip(declared, sizes, strict=True)):
        if isinstance(dim, int) and dim > 0 and dim != size:
            raise ShapeError(
                f"axis {axis} of input '{tensor.name}' is {dim} in the model and cannot be bound to {size}:"
                f" its shape is {_written(declared)}",
                **facts,
            )
    return declared


def _written(shape: Iterable[Dim]) -> str:
    return f"[{', '.join('?' if dim is None or dim == 0 else str(dim) for dim in shape)}]"


def _unknown_input(name: str, inputs: list[str]) -> ShapeError:
    nearest = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4)
    listed = ", ".join(f"'{known}'" for known in nearest or inputs)
    hint = f"did you mean {listed}?" if nearest else f"its inputs are {listed or 'none'}"
    return ShapeError(
        f"the model has no input '{name}': {hint}", name=name, nearest=tuple(nearest), inputs=tuple(inputs)
    )


def _unbound(unbound: Mapping[str, tuple[Dim, ...] | None]) -> ShapeError:
    dimensions: list[str] = []
    for name, shape in unbound.items():
        if shape is None:
            dimensions.append(f"all of '{name}' (its rank is not known)")
            continue
        for axis, dim in enumerate(shape):
            if not isinstance(dim, int) or dim <= 0:
                dimensions.append(f"axis {axis} of '{name}'" + (f" ('{dim}')" if isinstance(dim, str) else ""))
    python = ", ".join(f'"{name}": [{", ".join(_slots(shape))}]' for name, shape in unbound.items())
    command = " ".join(f"--shape {name}={','.join(_slots(shape))}" for name, shape in unbound.items())
    return ShapeError(
        f"input dimensions are not bound: {', '.join(dimensions)}; bind them with shapes={{{python}}} or {command},"
        " a number for each letter",
        inputs=tuple(unbound),
        dimensions=tuple(dimensions),
    )


def _slots(shape: tuple[Dim, ...] | None) -> list[str]:
    """A shape with letters for what is to be bound: N for the first axis, then H, W, D, L and so on."""
    if shape is None:
        return ["..."]
    letters = iter("NHWDLABCEFGIJKMOPQRSTUVXYZ")
    return [str(dim) if isinstance(dim, int) and dim > 0 else next(letters) for dim in shape]


def infer_types(graph: gs.Graph, structure: onnx.ModelProto, *, strict: bool) -> None:
    """Fill in the element type and shape of every variable of the graph and its subgraphs, by ONNX's shape inference.

    Args:
        graph: Its inputs have types and shapes.
        structure: The graph as a model, without the types of inner tensors.
        strict: Whether a contradiction is an error. If not, what follows from it stays unknown.

    Raises:
        ShapeError: An operator cannot work on the shapes it is given.
        ModelError: An operator cannot work on the types it is given.
    """
    inferred = inference(structure, strict=strict)
    types = {value.name: type_from_onnx(value.type) for value in _values(inferred.graph)}
    inputs = {id(tensor) for tensor in graph.inputs}
    for tensor in variables(graph):
        if id(tensor) not in inputs:
            tensor.dtype, tensor.shape = types.get(tensor.name, (None, None))
    if strict:
        require_consistent(graph)


def require_consistent(graph: gs.Graph) -> None:
    """Make sure of what ONNX's shape inference does not look at: a kernel would read past the end of a tensor.

    Args:
        graph: The shapes of its tensors are inferred, as far as they follow.

    Raises:
        ShapeError: A Reshape changes the number of elements, or a convolution's weight is for other channels.
    """
    for node in walk(graph):
        known = [tensor.shape if tensor.name and is_static(tensor.shape) else None for tensor in node.inputs]
        problem = None
        if node.domain or not known or known[0] is None:
            continue
        if node.op == "Reshape" and is_static(node.outputs[0].shape):
            before, after = known[0], node.outputs[0].shape
            if math.prod(before) != math.prod(after):
                problem = f"{_written(before)} cannot become {_written(after)}, which has another number of elements"
        elif node.op in ("Conv", "ConvTranspose") and known[1] is not None:
            channels, weight, group = known[0][1], known[1], node.attrs.get("group", 1)
            expected = weight[1] * group if node.op == "Conv" else weight[0]
            if channels != expected:
                problem = f"the weight {_written(weight)} is for {expected} channels, not {channels}"
        if problem is not None:
            raise _contradiction(ShapeError, "shapes", node.name, node.op, problem)


def inference(structure: onnx.ModelProto, *, strict: bool) -> onnx.ModelProto:
    """ONNX's shape inference, with its complaints as errors that name the first node concerned.

    Raises:
        ShapeError: An operator cannot work on the shapes it is given.
        ModelError: An operator cannot work on the types it is given.
    """
    try:
        return onnx.shape_inference.infer_shapes(structure, check_type=strict, strict_mode=strict, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        complaint = COMPLAINT.search(str(error))
        if complaint is None:
            raise ModelError(f"the model's types and shapes do not fit together: {error}") from error
        op_type, node, kind, text = complaint.groups()
        if kind == "ShapeInferenceError":
            raise _contradiction(ShapeError, "shapes", node, op_type, text) from error
        raise _contradiction(ModelError, "types", node, op_type, text) from error


def _contradiction(kind: type[LeptonError], what: str, node: str, op_type: str, text: str) -> LeptonError:
    return kind(f"the {what} do not fit together at node '{node}' ({op_type}): {text}", node=node, op_type=op_type)


def variables(graph: gs.Graph) -> Iterator[gs.Variable]:
    """Every named variable that a node of the graph or of a subgraph produces, and every input of a subgraph."""
    for node in walk(graph):
        for tensor in node.outputs:
            if tensor.name:
                yield tensor
        for subgraph in subgraphs(node):
            yield from subgraph.inputs


def require_static(graph: gs.Graph) -> None:
    """Make sure that every tensor has an element type and a static shape.

    Raises:
        ShapeError: A shape depends on the data, or on which branch of an If is taken.
        ModelError: A tensor is not a tensor at all (a sequence, a map, an optional value).
    """
    for node in graph.nodes:
        for subgraph in subgraphs(node):  # first: what is unknown in a branch makes the If's own output unknown
            for tensor in subgraph.inputs:
                if tensor.dtype is None or not is_static(tensor.shape):
                    raise ShapeError(
                        f"'{tensor.name}' in a subgraph of node '{node.name}' ({node.op}) may change its shape from one"
                        " iteration to the next: only static shapes are supported",
                        tensor=tensor.name,
                        node=node.name,
                        op_type=node.op,
                    )
            require_static(subgraph)
        for index, tensor in enumerate(node.outputs):
            if not tensor.name or (tensor.dtype is not None and is_static(tensor.shape)):
                continue
            where = f"'{tensor.name}', output {index} of node '{node.name}' ({node.op})"
            facts = {"tensor": tensor.name, "node": node.name, "op_type": node.op}
            if tensor.dtype is None:
                raise ModelError(f"{where}, is not a tensor of a known type: only tensors are supported", **facts)
            shapes = [body.outputs[index].shape for body in subgraphs(node)] if node.op == "If" else []
            if shapes:
                written = " and ".join(_written(shape or ()) for shape in shapes)
                raise ShapeError(f"{where}, has a shape that depends on the branch taken: {written}", **facts)
            unknown = "an unknown rank" if tensor.shape is None else f"shape {_written(tensor.shape)}"
            cause = "may change from one iteration to the next" if node.op == "Loop" else "depends on the data"
            raise ShapeError(f"{where}, has {unknown}: it {cause}; only static shapes are supported", **facts)


def is_static(shape: Sequence[Dim] | None) -> bool:
    """Whether a shape is known in full."""
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.value_info
    yield from graph.output
    yield from graph.input
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _values(subgraph)
