"""Verification: is the model's answer still the original's, as onnxruntime computes both, on probe inputs?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compile.errors import PassError
from lepton_compile.evaluation.compare import compare_outputs
from lepton_compile.evaluation.probes import random_inputs
from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Pass

Array = npt.NDArray[Any]

# How many times further than a rounding of the inputs moves an answer a pass may move it, which rounds at every node.
ROUNDINGS = 16


class Verification:
    """The answers of a reference graph on probe inputs, which later graphs are held to.

    The tolerance is that of `lepton_compile.evaluation.compare`. Some models amplify the rounding of a single addition
    beyond it on some inputs (a detector that is sure to see nothing answers in the last digits of a sigmoid); there, no
    exact rewrite could pass. An answer that the reference itself gives no more precisely is held to its own precision:
    how far it moves when the inputs move by a rounding, or onnxruntime optimises the model.
    """

    def __init__(self, reference: Graph, inputs: Mapping[str, Array] | None = None) -> None:
        """Evaluate `reference` on `inputs`, or on random ones."""
        self._reference = reference
        self._inputs = random_inputs(reference, seed=0) if inputs is None else inputs
        self._expected = reference.run(self._inputs)

    def check(self, rewrite: Pass, graph: Graph) -> None:
        """Compare `graph`, which `rewrite` left, with the reference.

        Raises:
            PassError: onnxruntime cannot run the graph, or answers with other names, shapes, types or values.
        """
        stage = rewrite.stage.value
        try:
            actual = graph.run(self._inputs)
        except Exception as error:
            message = f"left a graph that onnxruntime cannot run: {error}"
            raise PassError(rewrite.name, message, stage=stage) from error
        mismatches = compare_outputs(actual, self._expected)
        if mismatches and not self.within_rounding(actual):
            more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
            message = f"changed the values of the model: {mismatches[0]}{more}"
            raise PassError(rewrite.name, message, stage=stage, mismatches=tuple(mismatches))

    def within_rounding(self, actual: Mapping[str, Array]) -> bool:
        """Whether every answer that is not as expected is about as near to it as the reference's own are."""
        for name, expected in self._expected.items():
            if name in actual and not compare_outputs({name: actual[name]}, {name: expected}):
                continue
            if name not in actual or actual[name].shape != expected.shape or actual[name].dtype != expected.dtype:
                return False
            own = max(_distance(answer[name], expected) for answer in self._roundings)
            if not _distance(actual[name], expected) <= ROUNDINGS * own:
                return False
        return True

    @cached_property
    def _roundings(self) -> tuple[Mapping[str, Array], ...]:
        """Answers that differ from the expected ones by rounding only."""
        nudged = {name: _nudged(value) for name, value in self._inputs.items()}
        return self._reference.run(nudged), self._reference.run(self._inputs, optimise=True)


def _nudged(value: Array) -> Array:
    """Every other element moved to the next number of its type; integers stay."""
    if value.dtype.kind != "f":
        return value
    nudged = value.copy()
    nudged.reshape(-1)[::2] = np.nextafter(nudged.reshape(-1)[::2], value.dtype.type(np.inf))
    return nudged


def _distance(one: Array, other: Array) -> float:
    """Euclidean distance; 0 between equal integers, infinite where NaN or infinities lie in different places."""
    if other.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else np.inf
    finite = np.isfinite(other)
    if not np.array_equal(np.where(finite, 0, one), np.where(finite, 0, other), equal_nan=True):
        return np.inf
    difference = np.where(finite, one, 0).astype(np.float64) - np.where(finite, other, 0).astype(np.float64)
    return float(np.linalg.norm(difference))
