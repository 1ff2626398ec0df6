"""One version of ONNX's operator set, so that no pass and no operator has to know several."""

from __future__ import annotations

import onnx
from onnx import version_converter

from lepton_compile.errors import ModelError
from lepton_compile.model.graph import Graph

OPSET = 21


def normalise_opset(graph: Graph) -> Graph:
    """The same model in operator set 21; a newer one is kept.

    Args:
        graph: Its shapes are known: some conversions (Softmax before version 13) need them.

    Raises:
        ModelError: An operator has no conversion.
    """
    if graph.opset >= OPSET:
        return graph
    try:
        converted = version_converter.convert_version(graph.to_model(weights=False), OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model cannot be converted from operator set {graph.opset} to {OPSET}: {error}", opset=graph.opset
        ) from error
    onnx.helper.set_model_props(converted, graph.metadata)
    converted.doc_string, converted.domain, converted.model_version = graph.doc_string, graph.domain, graph.version
    result = Graph.from_model(converted, graph.large_weights())
    result.notes = graph.notes
    return result
