"""Inner tensors of a graph for several samples, one after the other: every node between them runs once for each sample.

What comes later may be changed in between, since a stage is made of the nodes as they are when it is reached. Only what
later stages read is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.model.folding import bytes_of
from lepton_compile.model.traversal import captured, subgraphs

Array = npt.NDArray[Any]
Samples = Sequence[Mapping[str, Array]]

HELD_BYTES = 64 << 20
"""What the inner tensors of one graph may take, of all samples together, where nothing else is said."""


def in_stages(graph: Graph, names: Sequence[str], samples: Sequence[Mapping[str, Array]]) -> Iterator[list[Array]]:
    """The values of each of these tensors, for all samples.

    Args:
        graph: The graph; between stages, what later nodes compute may be changed, but not what they read of these
            tensors.
        names: Tensors of the main graph, each once.
        samples: Inputs of the graph.
    """
    last, tensors = _last_stages(graph, names), graph.gs.tensors()
    order = {id(node): place for place, node in enumerate(graph.gs.nodes)}
    held = [dict(sample) for sample in samples]
    known = {tensor.name for tensor in graph.gs.inputs}
    for number, name in enumerate(names):
        reads, nodes = _stage(tensors[name], known)
        if nodes:
            nodes.sort(key=lambda node: order[id(node)])
            session = Graph(part_of(graph, nodes, reads, [tensors[name]])).session()
            for values in held:
                values |= session.run({read.name: values[read.name] for read in reads})
        known.add(name)
        yield [values[name] for values in held]
        for values in held:
            for done in [each for each in values if last.get(each, -1) <= number]:
                del values[done]


def as_many_as_held(graph: Graph, names: Sequence[str], samples: Samples, held_bytes: int = HELD_BYTES) -> Samples:
    """The first of samples, as many as `in_stages` may hold tensors of in so many bytes."""
    return samples[: max(1, held_bytes // max(1, most_held(graph, names)))]


def most_held(graph: Graph, names: Sequence[str]) -> int:
    """The most that `in_stages` holds of one sample at a time beside its inputs, in bytes."""
    last, tensors = _last_stages(graph, names), graph.gs.tensors()
    sizes = [bytes_of(tensors[name]) for name in names]
    return max(
        (sum(sizes[at] for at in range(number + 1) if last[names[at]] >= number) for number in range(len(names))),
        default=0,
    )


def _last_stages(graph: Graph, names: Sequence[str]) -> dict[str, int]:
    """The last stage that reads or is each tensor that is held."""
    tensors = graph.gs.tensors()
    known = {tensor.name for tensor in graph.gs.inputs}
    last: dict[str, int] = {}
    for number, name in enumerate(names):
        reads, _ = _stage(tensors[name], known)
        last |= dict.fromkeys([name, *(read.name for read in reads)], number)
        known.add(name)
    return last


def _stage(wanted: gs.Tensor, known: set[str]) -> tuple[list[gs.Variable], list[gs.Node]]:
    """What of the known tensors a tensor is computed from, and by which nodes, in any order."""
    reads: dict[str, gs.Variable] = {}
    found: dict[int, gs.Node] = {}
    waiting = [wanted]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in known:
            reads[tensor.name] = tensor
        for node in tensor.inputs if tensor.name not in known else ():
            if id(node) not in found:
                found[id(node)] = node
                waiting += [*node.inputs, *captured(subgraphs(node))]
    # Where only one of a node's results is known, all of them are computed again.
    given = [read for read in reads.values() if not any(id(node) in found for node in read.inputs)]
    return given, list(found.values())


def part_of(
    graph: Graph, nodes: Sequence[gs.Node], reads: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor]
) -> gs.Graph:
    """Some of the nodes of a graph, or of its subgraphs, as a graph; the nodes are the same ones."""
    whole = graph.gs
    return gs.Graph(
        nodes=list(nodes),
        inputs=list(reads),
        outputs=list(outputs),
        opset=whole.opset,
        import_domains=whole.import_domains,
        functions=whole.functions,
        ir_version=whole.ir_version,
    )
