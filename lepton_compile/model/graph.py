"""`Graph`: the model between passes, a thin value around onnx-graphsurgeon's graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import networkx
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from lepton_compile.errors import ModelError
from lepton_compile.model.execution import Session, evaluate
from lepton_compile.model.from_onnx import graph_from_onnx
from lepton_compile.model.replica import replicate
from lepton_compile.model.shapes import infer_types
from lepton_compile.model.to_onnx import constants, is_large, model_to_onnx
from lepton_compile.model.traversal import subgraphs, walk

# The oldest IR version that has model-local functions (8) and ONNX's operator set 21 (10).
MINIMUM_IR_VERSION = 10

# The domain of the model-local functions that stand for fused regions.
FUSED_DOMAIN = "lepton"


class Graph:
    """A model: graphsurgeon's graph, and what graphsurgeon would lose on the way to ONNX and back.

    Holds after import, and every pass keeps it so:
    - every node and every tensor has a name that is unique in the model, subgraphs included;
    - every tensor has an element type (numpy's; ml_dtypes' for bfloat16 and the like) and a static shape, a tuple;
    - constants are `gs.Constant` tensors holding arrays, there are no Constant nodes; they have no owner: whichever
      graph or subgraph reads one, it is written as an initializer of the main graph;
    - each output, of the main graph and of each subgraph, is a variable that a node of that same graph produces (an
      Identity where there is nothing to compute), but for a model's output that is the model's input by name.

    Attributes:
        gs: The graph itself: nodes, inputs, outputs, functions.
        metadata: The model's metadata_props.
        doc_string: The model's documentation (the graph's own is `gs.doc_string`).
        domain: The model's domain (reverse domain name of its namespace).
        version: The model's version number.
        notes: What the import found that the person who compiles should know, a line each.
    """

    def __init__(
        self,
        graph: gs.Graph,
        *,
        metadata: Mapping[str, str] | None = None,
        doc_string: str = "",
        domain: str = "",
        version: int = 0,
    ) -> None:
        self.gs = graph
        self.metadata = dict(metadata or {})
        self.doc_string = doc_string
        self.domain = domain
        self.version = version
        self.notes: list[str] = []

    @classmethod
    def from_model(cls, model: onnx.ModelProto, weights: Mapping[str, npt.NDArray[Any]] | None = None) -> Graph:
        """Read a model as it is: nothing is checked, inferred or folded (`import_model` does all that).

        Args:
            model: A valid model without external data.
            weights: Values of the inputs that are constants in truth, as `large_weights` gives them.

        Raises:
            ModelError: A node reads what nothing defines, or a constant's data do not fit its shape.
        """
        graph = graph_from_onnx(model, weights or {})
        graph.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)
        return cls(
            graph,
            metadata={entry.key: entry.value for entry in model.metadata_props},
            doc_string=model.doc_string,
            domain=model.domain,
            version=model.model_version,
        )

    def to_model(self, *, weights: bool = True) -> onnx.ModelProto:
        """Write the model; the same graph always gives the same bytes.

        Args:
            weights: Whether to write the constants of more than 1024 elements. If not, each becomes an input, and the
                model is its bare structure: small, quick to check and to infer. `large_weights` is what to feed.
        """
        return self._to_model(weights=weights, types=True)

    def _to_model(self, *, weights: bool, types: bool) -> onnx.ModelProto:
        model = model_to_onnx(self.gs, weights=weights, types=types)
        onnx.helper.set_model_props(model, self.metadata)
        model.doc_string, model.domain, model.model_version = self.doc_string, self.domain, self.version
        return model

    def large_weights(self) -> dict[str, npt.NDArray[Any]]:
        """The constants that `to_model(weights=False)` turns into inputs, by name."""
        return {constant.name: constant.values for constant in constants(self.gs) if is_large(constant)}

    @property
    def name(self) -> str:
        """The name of the main graph."""
        return str(self.gs.name)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return int(self.gs.opset)

    def copy(self) -> Graph:
        """A graph whose nodes and tensors may be changed without touching this one; the arrays are shared."""
        copy = Graph(
            replicate(self.gs),
            metadata=self.metadata,
            doc_string=self.doc_string,
            domain=self.domain,
            version=self.version,
        )
        copy.notes = list(self.notes)
        return copy

    def nodes(self) -> Iterator[gs.Node]:
        """Every node of the main graph, and right after a node those of its subgraphs; not those of function bodies."""
        yield from walk(self.gs)

    def check(self) -> None:
        """Check with the ONNX checker.

        Raises:
            ModelError: The graph is not valid ONNX.
        """
        check(self.to_model(weights=False))

    def infer_shapes(self, *, strict: bool = True) -> None:
        """Give every tensor the element type and shape that follow from the inputs; None where they do not follow.

        Works through model-local functions. What the tensors said before does not matter.

        Args:
            strict: Whether a contradiction is an error. Before constants are folded it need not be one: a branch that
                is never taken may not fit the shapes.

        Raises:
            ModelError: Operators and the types or shapes of what they are given contradict each other.
        """
        structure = model_to_onnx(self.gs, weights=False, types=False, local=True)
        infer_types(self.gs, structure, strict=strict)

    def networkx(self) -> networkx.MultiDiGraph[str]:
        """The main graph as a networkx graph.

        Nodes are named as the operators are, with the attributes `op`, `domain` and `node` (graphsurgeon's). There is
        an edge for each tensor that goes from one to another, with the attributes `tensor` (its name) and `index`
        (which input of the reader, or -1 where a subgraph of the reader captures it). Inputs and constants are no
        nodes.
        """
        view: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=self.name)
        producers: dict[str, str] = {}
        for node in self.gs.nodes:
            view.add_node(node.name, op=node.op, domain=node.domain or "", node=node)
            producers.update((tensor.name, node.name) for tensor in node.outputs if tensor.name)
        for node in self.gs.nodes:
            reads = [(index, tensor.name) for index, tensor in enumerate(node.inputs)]
            captured = dict.fromkeys(tensor.name for inner in _below(node) for tensor in inner.inputs)
            for index, name in (*reads, *((-1, name) for name in captured)):
                if name in producers:
                    view.add_edge(producers[name], node.name, tensor=name, index=index)
        return view

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None, *, optimise: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        """Evaluate with onnxruntime.

        Args:
            inputs: A value for every input.
            outputs: Names of outputs or of inner tensors of the main graph; all outputs by default.
            optimise: Whether onnxruntime may rewrite the model.

        Raises:
            ModelError: onnxruntime refuses the model or the inputs.
        """
        model = self._to_model(weights=False, types=False)
        return evaluate(model, {**self.large_weights(), **inputs}, outputs, optimise=optimise)

    def session(self, outputs: Sequence[str] | None = None) -> Session:
        """The graph made ready by onnxruntime, and optimised, to be run on many inputs.

        Args:
            outputs: Names of outputs or of inner tensors of the main graph that runs may ask for.

        Raises:
            ModelError: onnxruntime refuses the model, or it is larger than 2 GB.
        """
        return Session(self._to_model(weights=True, types=False), outputs, optimise=True)


def check(model: onnx.ModelProto) -> None:
    """Check a model that is small enough to be serialised.

    Raises:
        ModelError: The model is not valid ONNX.
    """
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"the model is not valid ONNX: {error}") from error


def _below(node: gs.Node) -> Iterator[gs.Node]:
    for subgraph in subgraphs(node):
        yield from walk(subgraph)
