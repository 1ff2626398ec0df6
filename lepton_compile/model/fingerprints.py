"""What a graph is known again by."""

from __future__ import annotations

import hashlib

import numpy as np

from lepton_compile.model.graph import Graph
from lepton_compile.model.to_onnx import constants


def structure_of(graph: Graph) -> str:
    """A hash of a graph's operators and shapes: equal for a model and the same one with other weights."""
    text = "\n".join(
        f"{node.domain or ''} {node.op} {[list(tensor.shape or ()) for tensor in (*node.inputs, *node.outputs)]}"
        for node in graph.nodes()
    )
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_weights(graph: Graph) -> str:
    """A hash of a graph's known tensors."""
    digest = hashlib.sha256()
    for constant in constants(graph.gs):
        values = np.ascontiguousarray(constant.values)
        digest.update(f"{values.dtype} {values.shape};".encode())
        digest.update(
            repr(values.tolist()).encode() if values.dtype.hasobject else values.reshape(-1).view(np.uint8).data
        )
    return digest.hexdigest()


def fingerprint(graph: Graph) -> str:
    """A hash of a graph's operators, shapes, names and known tensors: equal for a graph and its copies."""
    names = "\n".join(
        f"{node.name} {[tensor.name for tensor in (*node.inputs, *node.outputs)]}" for node in graph.nodes()
    )
    return hashlib.sha256(f"{structure_of(graph)} {hash_of_weights(graph)} {names}".encode()).hexdigest()
