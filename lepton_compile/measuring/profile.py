"""Where the time of a run goes: by step, and by kernel family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compile.measuring.roofline import Roofline
from lepton_compile.runtime.loader import Profile


@dataclass(frozen=True)
class StepTime:
    """One step, or several together.

    Attributes:
        label: The step's ONNX nodes, or the name of what is taken together.
        family: The kernel family.
        calls: How many steps it is.
        seconds: Median over the runs.
        operations: Floating-point operations, a multiply-add counting as two.
        moved_bytes: Bytes that have to be moved at least.
        shapes: Types, shapes and layouts, in words.
        kernel: The kernel's name; empty for several.
        choice: How the family does it and why, where there was a choice.
        bound: Seconds that it takes at least; None where the machine was not measured.
        peak_seconds: Seconds that its operations take at the peak; None where the machine was not measured.
    """

    label: str
    family: str
    calls: int
    seconds: float
    operations: int
    moved_bytes: int
    shapes: str = ""
    kernel: str = ""
    choice: str = ""
    bound: float | None = None
    peak_seconds: float | None = None

    @property
    def rate(self) -> float:
        """Operations in a second."""
        return self.operations / self.seconds

    @property
    def share_of_peak(self) -> float | None:
        """Of the machine's multiply-adds, those that it did; None where the machine was not measured."""
        return None if self.peak_seconds is None else self.peak_seconds / self.seconds

    @property
    def share_of_roofline(self) -> float | None:
        """The least time that it could take over the time that it took; None where the machine was not measured."""
        return None if self.bound is None else self.bound / self.seconds


def step_times(profile: Profile, roofline: Roofline | None, footprint: int) -> tuple[StepTime, ...]:
    """The steps of a profile, in the order in which they ran.

    Args:
        profile: What `CompiledModel.profile` gave.
        roofline: What the machine can do, on as many threads.
        footprint: Bytes of the whole model, as `roofline.footprint` gives them.
    """
    # Not all steps run in every run where the model branches.
    medians = np.nanmedian(profile.step_seconds, axis=0).tolist()
    return tuple(_timed(step, taken, roofline, footprint) for step, taken in zip(profile.steps, medians, strict=True))


def families(steps: Iterable[StepTime]) -> tuple[StepTime, ...]:
    """The steps of each kernel family together, the longest first."""
    groups: dict[str, list[StepTime]] = {}
    for step in steps:
        groups.setdefault(step.family, []).append(step)
    return tuple(sorted((together(family, group) for family, group in groups.items()), key=lambda step: -step.seconds))


def together(label: str, steps: Iterable[StepTime]) -> StepTime:
    """Several steps as one."""
    listed = list(steps)
    bounds = [step.bound for step in listed if step.bound is not None]
    peaks = [step.peak_seconds for step in listed if step.peak_seconds is not None]
    return StepTime(
        label=label,
        family=label,
        calls=sum(step.calls for step in listed),
        seconds=sum(step.seconds for step in listed),
        operations=sum(step.operations for step in listed),
        moved_bytes=sum(step.moved_bytes for step in listed),
        bound=sum(bounds) if len(bounds) == len(listed) else None,
        peak_seconds=sum(peaks) if len(peaks) == len(listed) else None,
    )


def _timed(step: Mapping[str, Any], seconds: float, roofline: Roofline | None, footprint: int) -> StepTime:
    operands = [*step["inputs"], *step["outputs"]]
    return StepTime(
        label=", ".join(step["nodes"]),
        family=step["family"],
        calls=1,
        seconds=max(seconds, 1e-9),  # the clock's unit
        operations=step["operations"],
        moved_bytes=sum(operand["moved_bytes"] or 0 for operand in operands),
        shapes=f"{_shapes(step['inputs'])} -> {_shapes(step['outputs'])}",
        kernel=step["kernel"],
        choice=_choice(step["choice"]),
        bound=None if roofline is None else roofline.bound(step, footprint),
        peak_seconds=None if roofline is None else step["operations"] / roofline.peak,
    )


def _choice(choice: Mapping[str, Any] | None) -> str:
    return "" if choice is None else "; ".join([choice["taken"], *(f"not {other}" for other in choice["passed_over"])])


def _shapes(operands: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{operand['dtype']}[{','.join(map(str, operand['shape']))}]"
        + (f" {operand['layout']}" if operand["layout"] != "plain" else "")
        for operand in operands
        if operand["storage"] != "weight"
    )
