"""What each operator says of the indices of its operands' axes: which of them go together, and which stay."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from lepton_compile.pruning.channels import fixed, is_fixed
from lepton_compile.pruning.labelling import TRANSFERS, Labelling, broadcast, stay
from lepton_compile.pruning.transfers import layers, normalization, shape
from lepton_compile.rewriting.elementwise import OPERATORS
from lepton_compile.rewriting.patterns import ONNX_DOMAINS

__all__ = ["label", "layers", "normalization", "shape"]


def label(graph: gs.Graph) -> Labelling:
    """Label all tensors of a graph."""
    labelling = Labelling()
    for tensor in graph.inputs:
        labelling.set(tensor, [fixed(size) for size in tensor.shape])
    for node in graph.nodes:
        if not _is_plain(node):
            stay(node, labelling)
        elif node.op in OPERATORS:
            _elementwise(node, labelling)
        else:
            TRANSFERS.get(node.op, stay)(node, labelling)
    for tensor in graph.outputs:
        for labels in labelling.of(tensor):
            if not is_fixed(labels):
                labelling.channels.freeze(labels, f"'{tensor.name}' is an output of the model")
    return labelling


def _is_plain(node: gs.Node) -> bool:
    """Whether it is an operator of ONNX's own on tensors of known shapes."""
    tensors = [tensor for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty()]
    return (node.domain or "") in ONNX_DOMAINS and all(tensor.shape is not None for tensor in tensors)


def _elementwise(node: gs.Node, labelling: Labelling) -> None:
    operands = [labelling.of(tensor) for tensor in node.inputs if not tensor.is_empty()]
    labelling.set(node.outputs[0], broadcast(operands, len(node.outputs[0].shape), node, labelling))
