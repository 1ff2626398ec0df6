"""Plan: what was decided, with settings and reasons; saved as JSON and replayed without deciding anything anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lepton_compile.errors import LeptonError
from lepton_compile.model import Graph
from lepton_compile.model.to_onnx import constants
from lepton_compile.rewriting import Declined, Stage, Step

FORMAT = 1


def structure_of(graph: Graph) -> str:
    """A hash of a graph's operators and shapes: equal for a model and the same one with other weights."""
    text = "\n".join(
        f"{node.domain or ''} {node.op} {[list(tensor.shape or ()) for tensor in (*node.inputs, *node.outputs)]}"
        for node in graph.nodes()
    )
    return hashlib.sha256(text.encode()).hexdigest()


def weights_of(graph: Graph) -> str:
    """A hash of a graph's known tensors."""
    digest = hashlib.sha256()
    for constant in constants(graph.gs):
        values = np.ascontiguousarray(constant.values)
        digest.update(f"{values.dtype} {values.shape};".encode())
        digest.update(
            repr(values.tolist()).encode() if values.dtype.hasobject else values.reshape(-1).view(np.uint8).data
        )
    return digest.hexdigest()


@dataclass(frozen=True)
class Plan:
    """The record of how a graph was adapted.

    Attributes:
        steps: The passes that changed the graph, in the order they ran.
        declined: The last answer of every pass that took part: why it did nothing (more), and what it left alone.
        structure: `structure_of` the graph that it was made for.
        weights: `weights_of` it, where a step is not exact: what was found out about one net does not hold of another.
    """

    steps: tuple[Step, ...] = ()
    declined: tuple[Declined, ...] = ()
    structure: str = ""
    weights: str = ""

    def why_not(self, name: str) -> str:
        """What a pass that changed nothing answered; "" if it did not take part, or changed something."""
        if any(step.name == name for step in self.steps):
            return ""
        return next((f"{answer.name}: {answer.reason}" for answer in self.declined if answer.name == name), "")

    def to_json(self) -> str:
        """The plan as JSON text; equal plans give equal text."""
        record = {
            "format": FORMAT,
            "structure": self.structure,
            "weights": self.weights,
            "steps": [
                {
                    "pass": step.name,
                    "stage": step.stage.value,
                    "settings": dict(step.settings),
                    "reason": step.reason,
                    "refusals": list(step.refusals),
                    "exact": step.exact,
                    "findings": dict(step.findings),
                }
                for step in self.steps
            ],
            "declined": [
                {
                    "pass": answer.name,
                    "stage": answer.stage.value,
                    "reason": answer.reason,
                    "refusals": list(answer.refusals),
                    "findings": dict(answer.findings),
                }
                for answer in self.declined
            ],
        }
        return json.dumps(record, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            LeptonError: The text is no plan, or a plan of another format.
        """
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                raise LeptonError(f"the plan has format {record['format']}, this version reads {FORMAT}; make it anew")
            return cls(
                steps=tuple(
                    Step(
                        name=str(step["pass"]),
                        stage=Stage(step["stage"]),
                        settings=_mapping(step["settings"]),
                        reason=str(step["reason"]),
                        refusals=tuple(map(str, step["refusals"])),
                        exact=bool(step["exact"]),
                        findings=_mapping(step.get("findings", {})),
                    )
                    for step in record["steps"]
                ),
                declined=tuple(
                    Declined(
                        name=str(answer["pass"]),
                        stage=Stage(answer["stage"]),
                        reason=str(answer["reason"]),
                        refusals=tuple(map(str, answer["refusals"])),
                        findings=_mapping(answer.get("findings", {})),
                    )
                    for answer in record["declined"]
                ),
                structure=str(record["structure"]),
                weights=str(record.get("weights", "")),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LeptonError(f"this is not a plan ({type(error).__name__}: {error})") from error


def _mapping(settings: object) -> Mapping[str, object]:
    if not isinstance(settings, dict):
        raise TypeError("settings and findings must be objects")
    return settings
