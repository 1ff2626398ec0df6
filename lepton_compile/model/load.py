"""Reading ONNX files: parsing, external data, and what can be said of a model before its shapes are known.

Large weights leave the protobuf right here, so that nothing that follows serialises them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, inliner
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from lepton_compile.errors import ModelError, UnsupportedOperator, UnsupportedOperatorError
from lepton_compile.model.contributed import DOMAIN as CONTRIBUTED_DOMAIN
from lepton_compile.model.contributed import SPELLINGS as CONTRIBUTED
from lepton_compile.model.from_onnx import Array, array_from_onnx, default_opset
from lepton_compile.model.graph import check
from lepton_compile.model.group_normalization import spell_out
from lepton_compile.model.to_onnx import LARGE_ELEMENTS

Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto

KINDS = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "optional",
    "sparse_tensor_type": "sparse",
}


def read_model(source: Source) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Read a model and check it.

    Args:
        source: A path, the bytes of a model, or a model (it is not changed).

    Returns:
        The model, checked, with its functions inlined and without training information; and the large weights by name,
        which are inputs of that model.

    Raises:
        ModelError: There is no such file, it is not ONNX, its external data are not to be had, or it is not valid.
        UnsupportedOperatorError: It uses operators that ONNX does not have.
    """
    if isinstance(source, onnx.ModelProto):
        proto, folder = _without_large_data(source), None
    elif isinstance(source, bytes | bytearray | memoryview):
        proto, folder = _parse(bytes(source), "the bytes given"), None
    else:
        path = Path(source)
        proto, folder = _parse(_read_bytes(path), f"'{path}'", path=path), path.parent
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("the model is not ONNX: it has no graph or no IR version")
    known = onnx.defs.onnx_opset_version()
    if default_opset(proto.opset_import) > known:
        raise ModelError(
            f"the model uses operator set {default_opset(proto.opset_import)}; the newest that is known is {known}:"
            " export it with that one, or install a newer onnx package",
            opset=default_opset(proto.opset_import),
        )
    del proto.training_info[:]
    _use_short_domain(proto)
    weights = _detach_weights(proto, folder, source if isinstance(source, onnx.ModelProto) else proto)
    _load_inner_data(proto, folder)
    for holder in (proto, *proto.functions):
        body = holder.graph if isinstance(holder, onnx.ModelProto) else holder
        spell_out(body, default_opset(holder.opset_import))
    _require_known_operators(proto)
    _complete_outputs(proto)
    check(proto)
    _require_tensors(proto)
    if proto.functions:
        proto = inliner.inline_local_functions(proto, convert_version=True)
    return proto, weights


def _complete_outputs(proto: onnx.ModelProto) -> None:
    """Give outputs whose declaration lacks a type or a shape, which the checker wants, the one that follows."""
    lacking = [output for output in proto.graph.output if not output.type.tensor_type.HasField("shape")]
    if not any(output.type.WhichOneof("value") in (None, "tensor_type") for output in lacking):
        return
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            output.ClearField("type")
    inferred = {output.name: output.type for output in onnx.shape_inference.infer_shapes(bare).graph.output}
    for output in lacking:
        if output.type.WhichOneof("value") in (None, "tensor_type") and inferred[output.name].tensor_type.HasField(
            "shape"
        ):
            output.type.CopyFrom(inferred[output.name])


def _use_short_domain(proto: onnx.ModelProto) -> None:
    """ONNX's own domain may be written "ai.onnx" or ""; the checker knows the short form alone (onnx/docs/IR.md)."""
    for holder in (proto, *proto.functions):
        for entry in holder.opset_import:
            entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in _nodes(nodes):
            if node.domain == "ai.onnx":
                node.domain = ""


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder, not an ONNX file", path=path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no file '{path}'", path=path) from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}", path=path) from error


def _parse(data: bytes, what: str, path: Path | None = None) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{what} is not ONNX: it is empty", path=path)
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, of a package that onnx chooses
        raise ModelError(f"{what} is not ONNX, or is cut short: it cannot be parsed", path=path) from error


def _without_large_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model but for its initializers."""
    copy, graph = onnx.ModelProto(), onnx.GraphProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(copy, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(graph, field.name, value)
    if model.HasField("graph"):
        copy.graph.CopyFrom(graph)
    return copy


def _copy_field(message: Any, name: str, value: Any) -> None:
    if isinstance(value, (str, bytes, int)):
        setattr(message, name, value)
    elif hasattr(value, "ListFields"):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)


def _detach_weights(proto: onnx.ModelProto, folder: Path | None, source: onnx.ModelProto) -> dict[str, Array]:
    """Turn the large and the external initializers of the main graph into inputs; returns their values.

    Args:
        proto: Changed in place; afterwards it has the small initializers of `source` alone.
        folder: Where external data are, if anywhere.
        source: The model whose initializers count; `proto` itself where it has them.
    """
    weights: dict[str, Array] = {}
    small: list[onnx.TensorProto] = []
    inputs = {value.name for value in proto.graph.input}
    for tensor in source.graph.initializer:
        external = uses_external_data(tensor)
        elements = int(np.prod(tensor.dims, dtype=np.int64))
        if elements <= LARGE_ELEMENTS and not external:
            small.append(tensor)
            continue
        weights[tensor.name] = _external_array(tensor, folder) if external else array_from_onnx(tensor)
        if tensor.name not in inputs:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = onnx.GraphProto()
    kept.initializer.extend(small)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept.initializer)
    return weights


def _load_inner_data(proto: onnx.ModelProto, folder: Path | None) -> None:
    """Read external data of tensors that are no initializers of the main graph into the protobuf."""
    bodies = (proto.graph.node, *(function.node for function in proto.functions))
    for node in (node for body in bodies for node in _nodes(body)):
        for attribute in node.attribute:
            graphs = (attribute.g, *attribute.graphs)
            for tensor in (attribute.t, *attribute.tensors, *(t for graph in graphs for t in graph.initializer)):
                if uses_external_data(tensor):
                    values = onnx.numpy_helper.from_array(_external_array(tensor, folder), tensor.name)
                    tensor.CopyFrom(values)


def _external_array(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """The values of a tensor whose data lie in a file of their own (onnx.proto, TensorProto.external_data)."""
    facts: dict[str, object] = {"tensor": tensor.name}
    if folder is None:
        raise ModelError(
            f"the data of tensor '{tensor.name}' are in another file: give the model's path, or load its data first",
            **facts,
        )
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelError(f"the external data of tensor '{tensor.name}' are not described rightly: {error}") from error
    path = _inside(folder, info.location, tensor.name)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    elements = int(np.prod(tensor.dims, dtype=np.int64))
    whole = dtype.kind in "fiubc"  # the others pack several into a byte, or have no file representation in numpy
    offset, size = info.offset or 0, path.stat().st_size
    length = info.length or (elements * dtype.itemsize if whole else size - offset)
    if offset + length > size or offset < 0 or length < 0:
        raise ModelError(
            f"the external data of tensor '{tensor.name}' end at byte {offset + length}, but '{path}' has only {size}",
            path=path,
            **facts,
        )
    data = np.fromfile(path, np.uint8, length, offset=offset)
    if whole and data.nbytes == elements * dtype.itemsize:
        return data.view(dtype).reshape(tuple(tensor.dims))
    raw = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data.tobytes())
    return array_from_onnx(raw)


def _inside(folder: Path, location: str, tensor: str) -> Path:
    """The file of external data, which must be in the model's folder or below, whatever links say."""
    facts: dict[str, object] = {"tensor": tensor, "location": location}
    path = folder / location
    rule = "external data must be in the model's own folder"
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"the data of tensor '{tensor}' are said to be at '{location}': {rule}", **facts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"the data of tensor '{tensor}' are at '{path}', a link to elsewhere: {rule}", **facts)
    if not path.is_file():
        raise ModelError(f"the data of tensor '{tensor}' are missing: there is no file '{path}'", path=path, **facts)
    return path


def _require_known_operators(proto: onnx.ModelProto) -> None:
    """Make sure that ONNX, the model itself, or what is spelled out defines every operator in the version imported.

    Raises:
        UnsupportedOperatorError: All that nothing defines.
    """
    own = {(function.domain, function.name) for function in proto.functions}
    refused: dict[UnsupportedOperator, list[str]] = {}
    for nodes, imports in (
        (proto.graph.node, proto.opset_import),
        *((function.node, function.opset_import) for function in proto.functions),
    ):
        versions = {entry.domain: entry.version for entry in imports}
        for node in _nodes(nodes):
            version = versions.get(node.domain, 0)
            known = onnx.defs.has(node.op_type, version, node.domain)
            gone = known and onnx.defs.get_schema(node.op_type, version, node.domain).deprecated
            if (node.domain, node.op_type) in own or (known and not gone):
                continue
            if node.domain == CONTRIBUTED_DOMAIN and node.op_type in CONTRIBUTED:
                continue
            reason = "ONNX dropped it before that version" if gone else ""
            operator = UnsupportedOperator(node.op_type, node.domain, version, (), reason)
            refused.setdefault(operator, []).append(node.name or next(iter(node.output), ""))
    if refused:
        raise UnsupportedOperatorError([replace(operator, nodes=tuple(nodes)) for operator, nodes in refused.items()])


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _require_tensors(proto: onnx.ModelProto) -> None:
    """Make sure that what goes in and comes out are tensors of numbers."""
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                raise ModelError(
                    f"{what} '{value.name}' is {KINDS.get(kind, 'of no known type')}: only tensors are supported",
                    name=value.name,
                )
            if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                raise ModelError(f"{what} '{value.name}' holds text: only numbers are supported", name=value.name)
