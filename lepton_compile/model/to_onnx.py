"""onnx-graphsurgeon to ONNX protobuf.

graphsurgeon's own exporter is not used: it writes outer constants once more into each subgraph that reads them, cannot
write empty lists, and orders the imported domains by their hash. Here every constant is an initializer of the main
graph, wherever it is read (those of function bodies, which know no initializers, are Constant nodes), and the same
graph always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from lepton_compile.model.from_onnx import UniqueNames
from lepton_compile.model.traversal import walk

# Enough for every shape, axis list and scalar that shape inference or an operator's kernel wants to see at build time.
LARGE_ELEMENTS = 1024


def model_to_onnx(graph: gs.Graph, *, weights: bool, types: bool, local: bool = False) -> onnx.ModelProto:
    """Write a model.

    Args:
        graph: The graph with its functions.
        weights: Whether large constants are written; if not, each becomes an input of the model.
        types: Whether the types and shapes that are known of inner tensors and outputs are written.
        local: Whether each subgraph gets its own copy of the small constants that it reads. onnxruntime does without,
            but ONNX's shape inference does not see the values of outer constants.
    """
    proto = _graph(graph, _Details(types, local))
    for constant in constants(graph):
        if weights or not is_large(constant):
            proto.initializer.append(tensor_to_onnx(constant))
        else:
            proto.input.append(helper.make_tensor_value_info(constant.name, _elem_type(constant), constant.shape))
    functions = [_function(function) for function in graph.functions]
    model = helper.make_model(
        proto,
        functions=functions,
        opset_imports=_imports(graph),
        producer_name=graph.producer_name or "",
        producer_version=graph.producer_version or "",
    )
    model.ir_version = graph.ir_version
    return model


def constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """The constants that the graph and its subgraphs read or return, each once, in order of first use."""
    seen: set[str] = set()
    reads: Iterable[gs.Tensor] = (tensor for node in walk(graph) for tensor in node.inputs)
    for tensor in (*reads, *graph.outputs):
        if isinstance(tensor, gs.Constant) and tensor.name not in seen:
            seen.add(tensor.name)
            yield tensor


def is_large(constant: gs.Constant) -> bool:
    """Whether a constant is a weight that structure does without; onnxruntime must be able to take it as an input."""
    return int(np.prod(constant.shape)) > LARGE_ELEMENTS and constant.dtype.kind in "fiub"


def tensor_to_onnx(constant: gs.Constant) -> onnx.TensorProto:
    """A constant as an initializer or an attribute's value."""
    return array_to_onnx(constant.values, constant.name)


def array_to_onnx(values: npt.NDArray[Any], name: str) -> onnx.TensorProto:
    """An array as a tensor of this name."""
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


@dataclass(frozen=True)
class _Details:
    types: bool = False
    local: bool = False


def value_info(variable: gs.Tensor, *, types: bool = True) -> onnx.ValueInfoProto:
    """A tensor's name and, as far as they are known and wanted, its element type and shape."""
    if not types or variable.dtype is None:
        return helper.make_empty_tensor_value_info(variable.name)
    return helper.make_tensor_value_info(variable.name, _elem_type(variable), variable.shape)


def _elem_type(tensor: gs.Tensor) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))


def _graph(graph: gs.Graph, details: _Details) -> onnx.GraphProto:
    nodes = [_node(node, graph, details) for node in graph.nodes]
    interface = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    inner = (tensor for node in graph.nodes for tensor in node.outputs if tensor.name and id(tensor) not in interface)
    known = [tensor for tensor in inner if details.types and tensor.dtype is not None and tensor.shape is not None]
    return helper.make_graph(
        nodes,
        graph.name or "graph",
        [value_info(tensor) for tensor in graph.inputs],
        [value_info(tensor, types=details.types) for tensor in graph.outputs],
        doc_string=graph.doc_string or None,
        value_info=[value_info(tensor) for tensor in known],
    )


def _subgraph(graph: gs.Graph, details: _Details) -> onnx.GraphProto:
    proto = _graph(graph, details)
    if details.local:
        reads = {
            tensor.name: tensor for node in graph.nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)
        }
        proto.initializer.extend(tensor_to_onnx(constant) for constant in reads.values() if not is_large(constant))
    return proto


def _node(node: gs.Node, graph: gs.Graph, details: _Details) -> onnx.NodeProto:
    proto = helper.make_node(
        node.op,
        [tensor.name for tensor in node.inputs],
        [tensor.name for tensor in node.outputs],
        name=node.name,
        domain=node.domain or None,
    )
    kinds = _attribute_types(node.op, node.domain or "", graph)
    for name, value in node.attrs.items():
        attribute = _attribute(name, value, kinds.get(name), details)
        if attribute is not None:
            proto.attribute.append(attribute)
    return proto


def _attribute_types(op: str, domain: str, graph: gs.Graph) -> dict[str, int]:
    """The types that the operator's schema gives its attributes; nothing for the call of a function."""
    version = next((entry.version for entry in graph.import_domains or () if entry.domain == domain), 1)
    version = version if domain else graph.opset
    if not onnx.defs.has(op, version, domain):
        return {}
    schema = onnx.defs.get_schema(op, version, domain)
    attributes: Mapping[str, Any] = schema.attributes
    return {name: int(attribute.type.value) for name, attribute in attributes.items()}


def _attribute(name: str, value: Any, kind: int | None, details: _Details) -> onnx.AttributeProto | None:
    if isinstance(value, gs.Node.AttributeRef):
        reference = onnx.AttributeProto(name=name, ref_attr_name=value.name)
        reference.type = gs.util.misc.convert_to_onnx_attr_type(value.type)
        return reference
    if isinstance(value, gs.Graph):
        value = _subgraph(value, details)
    elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
        value = [_subgraph(entry, details) for entry in value]
    elif isinstance(value, gs.Constant):
        value = tensor_to_onnx(value)
    elif isinstance(value, np.ndarray) and kind == onnx.AttributeProto.TENSOR:
        value = array_to_onnx(value, "")
    elif isinstance(value, (np.dtype, type)):
        value = int(helper.np_dtype_to_tensor_dtype(np.dtype(value)))
    elif isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        value = [entry.encode(errors="surrogateescape") for entry in value]
    if isinstance(value, (list, tuple)) and not value and kind is None:
        return None  # An empty list has no type of its own, and says as much as no list.
    return helper.make_attribute(name, value, attr_type=kind)


def _imports(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """ONNX's own operator set first, then by name those that the nodes use and those that the model declared."""
    versions = {entry.domain: entry.version for entry in graph.import_domains or ()}
    used = {node.domain for node in walk(graph) if node.domain}
    others = {domain: versions.get(domain, 1) for domain in sorted(used) if domain != "ai.onnx"}
    return [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(*entry) for entry in others.items())]


def _function(function: gs.Function) -> onnx.FunctionProto:
    names = UniqueNames(node.name for node in walk(function))
    values = [
        helper.make_node(
            "Constant", [], [constant.name], name=names.new(f"Constant_{constant.name}"), value=tensor_to_onnx(constant)
        )
        for constant in constants(function)
    ]
    defaults = {name: value for name, value in function.attrs.items() if value is not None}
    protos = (_attribute(name, value, None, _Details()) for name, value in defaults.items())
    return helper.make_function(
        function.domain or "",
        function.name,
        [tensor.name for tensor in function.inputs],
        [tensor.name for tensor in function.outputs],
        values + [_node(node, function, _Details()) for node in function.nodes],
        _imports(function),
        attributes=[name for name, value in function.attrs.items() if value is None],
        attribute_protos=[proto for proto in protos if proto is not None],
        doc_string=function.doc_string or None,
    )
