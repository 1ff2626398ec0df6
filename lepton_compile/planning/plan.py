"""Plan: what was decided, with settings and reasons; saved as JSON and replayed without deciding anything anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from lepton_compile.errors import LeptonError
from lepton_compile.rewriting import Declined, Stage, Step

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """The record of how a graph was adapted.

    Attributes:
        steps: The passes that changed the graph, in the order they ran.
        declined: The last answer of every pass that took part: why it did nothing (more), and what it left alone.
        structure: `structure_of` the graph that it was made for.
        weights: `hash_of_weights` of it, where a step is not exact: what was found out holds of no other net.
        points: The plans that a search tried, as JSON values: what passes were told, what each takes, and its drop.
        family: Larger models of the same family that were passed over, as JSON values: which, and why.
    """

    steps: tuple[Step, ...] = ()
    declined: tuple[Declined, ...] = ()
    structure: str = ""
    weights: str = ""
    points: tuple[Mapping[str, object], ...] = ()
    family: tuple[Mapping[str, object], ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every step keeps the model's values."""
        return all(step.exact for step in self.steps)

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
            "points": [dict(point) for point in self.points],
            "family": [dict(member) for member in self.family],
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
                points=tuple(_mapping(point) for point in record.get("points", ())),
                family=tuple(_mapping(member) for member in record.get("family", ())),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LeptonError(f"this is not a plan ({type(error).__name__}: {error})") from error


def _mapping(settings: object) -> Mapping[str, object]:
    if not isinstance(settings, dict):
        raise TypeError("settings and findings must be objects")
    return settings
