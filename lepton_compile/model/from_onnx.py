"""ONNX protobuf to onnx-graphsurgeon.

graphsurgeon's own importer is not used, because it drops what the compiler must keep (sparse constants, attributes that
hold types, bfloat16 element types) and leaves names as they are. Here names become unique over the whole model,
subgraphs included: graphsurgeon compares tensors by name, and sibling branches may use the same one for different
values.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from lepton_compile.errors import ModelError
from lepton_compile.model.traversal import walk

Dim: TypeAlias = int | str | None
Array: TypeAlias = npt.NDArray[Any]
Scope: TypeAlias = MutableMapping[str, gs.Tensor]

ATTRIBUTE_TYPES: Mapping[int, Any] = {
    onnx.AttributeProto.FLOAT: float,
    onnx.AttributeProto.INT: int,
    onnx.AttributeProto.STRING: str,
    onnx.AttributeProto.TENSOR: gs.Tensor,
    onnx.AttributeProto.GRAPH: gs.Graph,
    onnx.AttributeProto.FLOATS: list[float],
    onnx.AttributeProto.INTS: list[int],
    onnx.AttributeProto.STRINGS: list[str],
}


def graph_from_onnx(model: onnx.ModelProto, weights: Mapping[str, Array]) -> gs.Graph:
    """Read a model.

    Constant nodes become constants, sparse constants dense ones, and every node and tensor gets a name that nothing
    else in the model has; those of the main graph are kept where they are unique already. Function bodies are scopes of
    their own.

    Args:
        model: A model that the ONNX checker accepts.
        weights: Values of graph inputs that are constants in truth, by name (see `Graph.large_weights`).

    Raises:
        ModelError: A node reads a tensor that nothing defines, two outputs have the same name, or a constant's data do
            not fit its shape.
    """
    opset = default_opset(model.opset_import) or onnx.defs.onnx_opset_version()  # without ONNX's own operators, any
    reader = _Reader(opset, list(model.opset_import))
    graph = reader.graph(model.graph, ChainMap({}), weights)
    graph.producer_name, graph.producer_version = model.producer_name, model.producer_version
    graph.ir_version = model.ir_version
    graph.functions = [_function(function, opset) for function in model.functions]
    name_nodes(graph)
    return graph


def default_opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """The version of ONNX's own operator set among these, 0 if it is not there."""
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)


def array_from_onnx(tensor: onnx.TensorProto | onnx.SparseTensorProto, name: str = "") -> Array:
    """The values of a tensor; a sparse one is made dense.

    Raises:
        ModelError: The data do not fit the shape and the element type.
    """
    try:
        if any(uses_external_data(part) for part in _parts(tensor)):
            raise ValueError("they are in another file")  # which onnx would look for in the current folder
        if isinstance(tensor, onnx.SparseTensorProto):
            return _dense(tensor)
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ModelError(
            f"the data of tensor '{name or tensor_name(tensor)}' do not fit its shape and type: {error}",
            tensor=name or tensor_name(tensor),
        ) from error


def _parts(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> tuple[onnx.TensorProto, ...]:
    return (tensor.values, tensor.indices) if isinstance(tensor, onnx.SparseTensorProto) else (tensor,)


def tensor_name(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> str:
    """The name of a dense or a sparse initializer."""
    return tensor.values.name if isinstance(tensor, onnx.SparseTensorProto) else tensor.name


def _dense(tensor: onnx.SparseTensorProto) -> Array:
    """Indices are [NNZ] positions in the flattened tensor or [NNZ, rank] coordinates (onnx.proto)."""
    values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a name that is unique in the model, or in its function; those that are so are kept."""
    for body in (graph, *graph.functions):
        nodes = list(walk(body))
        names = UniqueNames(node.name for node in nodes)
        seen: set[str] = set()
        for node in nodes:
            if not node.name or node.name in seen:
                node.name = names.new(node.name or f"{node.op}_{node.outputs[0].name if node.outputs else ''}")
            seen.add(node.name)


class UniqueNames:
    """Names that are taken, and new ones that are not."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def new(self, wanted: str) -> str:
        """`wanted` if it is free, otherwise with the first number behind it that is; taken from now on."""
        name = wanted
        while name in self._taken:
            self._next[wanted] = self._next.get(wanted, 0) + 1
            name = f"{wanted}_{self._next[wanted]}"
        self._taken.add(name)
        return name


class _Reader:
    """Reads graphs that share one space of tensor names."""

    def __init__(self, opset: int, imports: list[onnx.OperatorSetIdProto]) -> None:
        self.opset = opset
        self.imports = imports
        self.names = UniqueNames()

    def graph(self, proto: onnx.GraphProto, outer: ChainMap[str, gs.Tensor], weights: Mapping[str, Array]) -> gs.Graph:
        scope = outer.new_child()
        # The interface first, so that no inner tensor takes its names.
        initializers = {tensor_name(tensor) for tensor in (*proto.initializer, *proto.sparse_initializer)}
        inputs: list[gs.Tensor] = []
        for value in proto.input:
            if value.name in weights:
                scope[value.name] = gs.Constant(self.names.new(value.name), weights[value.name])
            elif value.name not in initializers:
                scope[value.name] = self.variable(value)
                inputs.append(scope[value.name])
        for tensor in (*proto.initializer, *proto.sparse_initializer):
            name = tensor_name(tensor)
            values = weights[name] if name in weights else array_from_onnx(tensor)
            scope[name] = gs.Constant(self.names.new(name), values)
        types = {value.name: value for value in (*proto.value_info, *proto.output)}
        for node in proto.node:
            for name in filter(None, node.output):
                scope[name] = self.variable(types[name]) if name in types else gs.Variable(self.names.new(name))

        nodes = self.nodes(proto.node, scope)
        names = [value.name for value in proto.output]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None and not outer:  # answers are told apart by name; those of a branch by their order
            raise ModelError(f"the model has two outputs that are both called '{twice}'", tensor=twice)
        outputs = [self.lookup(name, scope, f"the outputs of graph '{proto.name}'") for name in names]
        graph = gs.Graph(
            nodes=nodes,
            inputs=inputs,
            outputs=outputs,
            name=proto.name,
            doc_string=proto.doc_string,
            opset=self.opset,
            import_domains=self.imports,
        )
        self.produce_outputs(graph, interface=not outer)
        return graph

    def nodes(self, protos: Iterable[onnx.NodeProto], scope: ChainMap[str, gs.Tensor]) -> list[gs.Node]:
        nodes: list[gs.Node] = []
        for proto in protos:
            domain = "" if proto.domain == "ai.onnx" else proto.domain
            if proto.op_type == "Constant" and not domain and not any(a.ref_attr_name for a in proto.attribute):
                variable = scope[proto.output[0]]
                # Uses that were read already (a body's outputs) hold the same object: it becomes the constant.
                variable.to_constant(constant_value(proto))
                continue
            where = f"node '{proto.name}' ({proto.op_type})"
            nodes.append(
                gs.Node(
                    op=proto.op_type,
                    name=proto.name,
                    attrs={a.name: self.attribute(a, scope) for a in proto.attribute},
                    inputs=[self.lookup(name, scope, where) for name in proto.input],
                    outputs=[scope[name] if name else gs.Variable.empty() for name in proto.output],
                    domain=domain or None,
                )
            )
        return nodes

    def lookup(self, name: str, scope: Scope, where: str) -> gs.Tensor:
        if not name:
            return gs.Variable.empty()
        if name not in scope:
            raise ModelError(f"{where} reads tensor '{name}', which nothing defines", tensor=name)
        return scope[name]

    def variable(self, value: onnx.ValueInfoProto) -> gs.Variable:
        variable = gs.Variable(self.names.new(value.name))
        variable.dtype, variable.shape = type_from_onnx(value.type)
        return variable

    def attribute(self, attribute: onnx.AttributeProto, scope: ChainMap[str, gs.Tensor]) -> object:
        if attribute.ref_attr_name:
            return gs.Node.AttributeRef(attribute.ref_attr_name, ATTRIBUTE_TYPES[attribute.type])
        value = onnx.helper.get_attribute_value(attribute)
        match attribute.type:
            case onnx.AttributeProto.GRAPH:
                return self.graph(value, scope, {})
            case onnx.AttributeProto.GRAPHS:
                return [self.graph(entry, scope, {}) for entry in value]
            case onnx.AttributeProto.TENSOR:
                return gs.Constant(value.name, array_from_onnx(value, attribute.name))
            case onnx.AttributeProto.STRING:
                return value.decode(errors="surrogateescape")
            case onnx.AttributeProto.STRINGS:
                return [entry.decode(errors="surrogateescape") for entry in value]
            case onnx.AttributeProto.INTS | onnx.AttributeProto.FLOATS:
                return list(value)
        return value

    def produce_outputs(self, graph: gs.Graph, *, interface: bool = False) -> None:
        """Put an Identity before each output that no node of this graph produces: a constant, an input, a capture.

        Every output of every graph is then a variable with a producer beside it, which spares all that follows a case;
        ONNX itself demands it of a branch that returns an outer tensor. One exception: where the model's own output is
        its input (`interface`), both carry the same name and must keep it.
        """
        produced = {id(tensor) for node in graph.nodes for tensor in node.outputs}
        inputs = {id(tensor) for tensor in graph.inputs} if interface else set()
        for index, tensor in enumerate(graph.outputs):
            if id(tensor) in produced or id(tensor) in inputs:
                continue
            output = gs.Variable(tensor.name if interface else self.names.new(tensor.name), tensor.dtype, tensor.shape)
            if interface:
                tensor.name = self.names.new(f"{tensor.name}_value")
            graph.nodes.append(gs.Node("Identity", f"Identity_{output.name}", inputs=[tensor], outputs=[output]))
            graph.outputs[index] = output


def type_from_onnx(proto: onnx.TypeProto) -> tuple[np.dtype[Any] | None, tuple[Dim, ...] | None]:
    """Element type and shape of a tensor type; None for what is not said, and for both where it is no tensor.

    A dimension is a size, the name of a symbolic one, or None. "?" and "-1", and negative sizes, are what some
    exporters write for a dimension that is neither known nor named.
    """
    if not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
        return None, None
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))
    if not proto.tensor_type.HasField("shape"):
        return dtype, None
    return dtype, tuple(_dim(dim) for dim in proto.tensor_type.shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param if dim.dim_param not in ("", "?", "-1") else None


def constant_value(node: onnx.NodeProto) -> Array:
    """The value of a Constant node, in whichever of its attributes it is written.

    Raises:
        ModelError: The node has no value.
    """
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return array_from_onnx(attribute.t, node.output[0])
            case "sparse_value":
                return array_from_onnx(attribute.sparse_tensor, node.output[0])
            case "value_float" | "value_floats":
                return np.array(onnx.helper.get_attribute_value(attribute), np.float32)
            case "value_int" | "value_ints":
                return np.array(onnx.helper.get_attribute_value(attribute), np.int64)
            case "value_string" | "value_strings":
                strings = onnx.helper.get_attribute_value(attribute)
                return np.array(
                    strings.decode() if isinstance(strings, bytes) else [s.decode() for s in strings], object
                )
    raise ModelError(f"Constant node '{node.name}' has no value", node=node.name)


def _function(proto: onnx.FunctionProto, opset: int) -> gs.Function:
    """A model-local function: a scope of its own, with tensors that have no types."""
    reader = _Reader(default_opset(proto.opset_import) or opset, list(proto.opset_import))
    scope: ChainMap[str, gs.Tensor] = ChainMap({})
    for name in (*proto.input, *(name for node in proto.node for name in node.output if name)):
        scope[name] = gs.Variable(reader.names.new(name))
    attributes: dict[str, object] = dict.fromkeys(proto.attribute)
    attributes |= {a.name: reader.attribute(a, scope) for a in proto.attribute_proto}
    function = gs.Function(
        proto.name,
        proto.domain,
        nodes=reader.nodes(proto.node, scope),
        inputs=[scope[name] for name in proto.input],
        outputs=[reader.lookup(name, scope, f"function '{proto.name}'") for name in proto.output],
        doc_string=proto.doc_string,
        opset=reader.opset,
        import_domains=list(proto.opset_import),
        attrs=attributes,
    )
    reader.produce_outputs(function)
    return function
