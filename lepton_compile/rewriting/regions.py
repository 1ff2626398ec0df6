"""Fused regions: connected nodes that become one call of a model-local function.

The function's body is the nodes themselves, so the values are the same by construction: onnxruntime runs it, a viewer
shows it, and lowering makes one kernel of it, or several where no kernel takes the whole.

A region has one output. It is then convex of itself (no path leaves it and comes back): the node that computes the
output is the last of the region, so what reads the output cannot come before any node of it. The call takes that
node's place, where everything that the region reads is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.model import FUSED_DOMAIN, Graph
from lepton_compile.model.traversal import bodies, subgraphs
from lepton_compile.rewriting.patterns import Uses

# Constants of so few elements are parameters of the computation more than weights: they go into the function's body.
SMALL_CONSTANT = 16


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes of one scope that a call will take the place of.

    Attributes:
        kind: What they compute together: the function is called `KIND_n`.
        name: What the call will be called: the name of the node that the region is known by.
        nodes: In the order of the graph. The last one has one output, which is the region's; see `why_not_fuse`.
    """

    kind: str
    name: str
    nodes: tuple[gs.Node, ...]

    @property
    def output(self) -> gs.Tensor:
        """The one tensor that others may read."""
        return self.nodes[-1].outputs[0]


def kind_of(node: gs.Node) -> str:
    """The kind of the region that a node is the call of; "" for every other node."""
    return node.op.rpartition("_")[0] if node.domain == FUSED_DOMAIN else ""


def positions(graph: Graph) -> dict[int, int]:
    """The place of each node in the order of its scope, by the node's identity."""
    return {id(node): index for scope in bodies(graph.gs) for index, node in enumerate(scope.nodes)}


def why_not_fuse(uses: Uses, nodes: Sequence[gs.Node]) -> str:
    """Why nodes, given in the order of the graph, cannot become one region; "" if they can.

    They must lie in one scope without subgraphs, and nothing outside may see any but the last one's only output.
    """
    inside = {id(node) for node in nodes}
    last = nodes[-1]
    for node in nodes:
        if uses.scope(node) is not uses.scope(last):
            return f"{node.name} is outside the branch or loop that {last.name} is in"
        if subgraphs(node):
            return f"{node.name} has branches or a loop inside"
    for node in nodes[:-1]:
        for tensor in node.outputs:
            if uses.is_output(tensor):
                return f"'{tensor.name}' is an output as well"
            for reader in tensor.outputs:
                if id(reader) not in inside:
                    return f"'{tensor.name}' is used by {reader.name} as well"
    if len(last.outputs) != 1:
        return f"{last.name} has {len(last.outputs)} outputs"
    return ""


def fuse(graph: Graph, uses: Uses, regions: Iterable[Region]) -> None:
    """Replace each region by the call of a function, numbered by kind in the order given.

    Args:
        graph: Changed in place; its functions gain one for each region.
        uses: The uses of the graph's tensors.
        regions: Disjoint regions that `why_not_fuse` finds no objection to.
    """
    taken = {function.name for function in graph.gs.functions if function.domain == FUSED_DOMAIN}
    following: dict[str, int] = {}
    for region in regions:
        number = following.get(region.kind, 0)
        while f"{region.kind}_{number}" in taken:
            number += 1
        following[region.kind] = number + 1
        _replace(graph, uses, region, f"{region.kind}_{number}")


def _replace(graph: Graph, uses: Uses, region: Region, name: str) -> None:
    tensors: dict[int, gs.Tensor] = {}
    external = _external(region)
    function = gs.Function(
        name,
        FUSED_DOMAIN,
        inputs=[_inside(tensor, tensors) for tensor in external],
        nodes=[_copy(node, tensors) for node in region.nodes],
        outputs=[tensors[id(region.output)]],
        opset=graph.gs.opset,
        import_domains=graph.gs.import_domains,
    )
    graph.gs.functions.append(function)
    call = gs.Node(name, region.name, inputs=external, domain=FUSED_DOMAIN)
    uses.insert_after(region.nodes[-1], call)
    output = region.output
    uses.remove(region.nodes)
    call.outputs = [output]


def _external(region: Region) -> list[gs.Tensor]:
    """What the region reads but neither computes nor keeps inside, each once, in order of first use."""
    known = {id(tensor) for node in region.nodes for tensor in node.outputs}
    external: list[gs.Tensor] = []
    for node in region.nodes:
        for tensor in node.inputs:
            if id(tensor) not in known and not tensor.is_empty() and not _is_small(tensor):
                known.add(id(tensor))
                external.append(tensor)
    return external


def _is_small(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape, dtype=np.int64)) <= SMALL_CONSTANT


def _copy(node: gs.Node, tensors: dict[int, gs.Tensor]) -> gs.Node:
    attributes: Mapping[str, object] = node.attrs
    return gs.Node(
        node.op,
        node.name,
        attrs=dict(attributes),
        inputs=[_inside(tensor, tensors) for tensor in node.inputs],
        outputs=[_inside(tensor, tensors) for tensor in node.outputs],
        domain=node.domain,
    )


def _inside(tensor: gs.Tensor, tensors: dict[int, gs.Tensor]) -> gs.Tensor:
    """The tensor that stands for `tensor` in the function's body: a value if it is small, else a variable."""
    if tensor.is_empty():
        return gs.Variable.empty()
    if id(tensor) not in tensors:
        small = _is_small(tensor)
        tensors[id(tensor)] = tensor.copy() if small else gs.Variable(tensor.name, tensor.dtype, tensor.shape)
    return tensors[id(tensor)]
