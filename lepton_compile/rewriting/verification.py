"""Verification: is the model's answer still the original's, as onnxruntime computes both, on probe inputs?"""

from __future__ import annotations

from lepton_compile.errors import PassError
from lepton_compile.evaluation.compare import compare_outputs
from lepton_compile.evaluation.probes import random_inputs
from lepton_compile.model import Graph
from lepton_compile.rewriting.passes import Pass


class Verification:
    """The answers of a reference graph on probe inputs, which later graphs are held to."""

    def __init__(self, reference: Graph) -> None:
        self._inputs = random_inputs(reference, seed=0)
        self._expected = reference.run(self._inputs)

    def check(self, rewrite: Pass, graph: Graph) -> None:
        """Compare `graph`, which `rewrite` left, with the reference.

        Raises:
            PassError: onnxruntime cannot run the graph, or answers with other names, shapes, types or values than
                `lepton_compile.evaluation.compare` allows.
        """
        stage = rewrite.stage.value
        try:
            actual = graph.run(self._inputs)
        except Exception as error:
            raise PassError(
                rewrite.name, f"left a graph that onnxruntime cannot run: {error}", stage=stage
            ) from error  # fmt: skip
        mismatches = compare_outputs(actual, self._expected)
        if mismatches:
            more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
            raise PassError(
                rewrite.name,
                f"changed the values of the model: {mismatches[0]}{more}",
                stage=stage,
                mismatches=tuple(mismatches),
            )
