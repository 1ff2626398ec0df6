"""From an ONNX model as it was published to the `Graph` that everything else works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton_compile.model.branches import close_impossible_branches
from lepton_compile.model.contributed import spell_out_contributed
from lepton_compile.model.folding import fold_constants
from lepton_compile.model.graph import Graph
from lepton_compile.model.load import Source, read_model
from lepton_compile.model.opset import normalise_opset
from lepton_compile.model.packed_weights import widen_constants
from lepton_compile.model.shapes import bind_shapes, require_static


def import_model(model: Source, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Import a model: checked, in operator set 21 or newer, with shapes known and constants folded.

    Initializers that are inputs as well (IR version 3) are constants, not inputs. Functions of the model are inlined,
    and what onnxruntime adds to ONNX's operators is said in ONNX's.

    Args:
        model: A path, the bytes of a model, or a model (it is not changed).
        shapes: Sizes for the inputs with dynamic dimensions, by input; a dimension's name is bound in all inputs at
            once.

    Raises:
        ModelError: The model cannot be read, or is not valid.
        UnsupportedOperatorError: It uses operators that ONNX does not have, and that are not said in ONNX's.
        ShapeError: Dimensions are left unbound, or are bound to what does not fit, or depend on the data.
    """
    structure, weights = read_model(model)
    graph = Graph.from_model(structure, weights)
    spell_out_contributed(graph.gs)
    widen_constants(graph.gs)
    bind_shapes(graph.gs, shapes or {})
    _settle(graph)
    graph = normalise_opset(graph)
    _settle(graph)
    graph.infer_shapes()
    require_static(graph.gs)
    graph.check()
    return graph


def _settle(graph: Graph) -> None:
    """Fold until shape arithmetic is gone, and with it the branches that it chooses between."""
    fold_constants(graph)
    while close_impossible_branches(graph):
        fold_constants(graph)
