"""Branches that cannot work with the shapes that were bound.

A speech model may serve two sampling rates with one If, each branch for its own length of input. Bound to one length,
the other branch is an error whenever it is taken; which one is taken is still the caller's choice at run time.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lepton_compile.errors import LeptonError
from lepton_compile.model.from_onnx import UniqueNames
from lepton_compile.model.graph import Graph
from lepton_compile.model.shapes import inference, is_static, require_consistent
from lepton_compile.model.to_onnx import model_to_onnx
from lepton_compile.model.traversal import bodies, captured, disconnect, walk

BRANCHES = ("then_branch", "else_branch")


def close_impossible_branches(graph: Graph) -> int:
    """Let each branch whose operators contradict the shapes give NaN, where the other branch of its If works.

    NaN is what says "no number" without a control flow that ONNX does not have: an If stays an If, valid ONNX that
    onnxruntime runs. Each branch closed is put down in `graph.notes`. Where both branches fail, or an output is of a
    type without NaN, nothing is done, and strict shape inference will say what is wrong.

    Args:
        graph: Changed in place; constants are folded, and the shapes that follow from the inputs inferred.

    Returns:
        The number of branches closed.
    """
    closed = 0
    names = UniqueNames(tensor.name for node in walk(graph.gs) for tensor in (*node.inputs, *node.outputs))
    for body in reversed(list(bodies(graph.gs))):  # inside out
        for node in body.nodes:
            if node.op != "If" or node.domain:
                continue
            problems = [_contradiction(node.attrs[name], graph.gs) for name in BRANCHES]
            for index, (problem, other) in enumerate(zip(problems, reversed(problems), strict=True)):
                name, working = BRANCHES[index], node.attrs[BRANCHES[1 - index]]
                if problem is not None and other is None and _can_be_nan(working):
                    _close(node.attrs[name], working, names)
                    graph.notes.append(f"{name} of node '{node.name}' (If) gives NaN, because {problem}")
                    closed += 1
    return closed


def _contradiction(branch: gs.Graph, graph: gs.Graph) -> str | None:
    """What is wrong inside a branch on its own; None too where the types of what it captures are not known."""
    inputs = captured([branch])
    if not all(tensor.dtype is not None and is_static(tensor.shape) for tensor in inputs):
        return None
    alone = gs.Graph(
        nodes=branch.nodes,
        inputs=inputs,
        outputs=branch.outputs,
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
    )
    try:
        inference(model_to_onnx(alone, weights=False, types=False, local=True), strict=True)
        require_consistent(branch)
    except LeptonError as error:
        return str(error)
    return None


def _can_be_nan(branch: gs.Graph) -> bool:
    return all(
        tensor.dtype is not None and tensor.dtype.kind == "f" and is_static(tensor.shape) for tensor in branch.outputs
    )


def _close(branch: gs.Graph, model: gs.Graph, names: UniqueNames) -> None:
    """Replace the nodes of a branch by NaN of the types and shapes of another branch's outputs."""
    for node in branch.nodes:
        disconnect(node)
    branch.nodes.clear()
    for output, like in zip(branch.outputs, model.outputs, strict=True):
        value = gs.Constant(names.new(f"{output.name}_value"), np.full(like.shape, np.nan, like.dtype))
        branch.nodes.append(gs.Node("Identity", f"Identity_{output.name}", inputs=[value], outputs=[output]))
