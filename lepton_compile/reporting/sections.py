"""The sections of a report, from what lies in the folder of a compiled model; a terminal and a page show the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, TypeAlias

from lepton_compile.reporting.pareto import label, picture
from lepton_compile.reporting.quantities import format_amount, format_bytes

Record: TypeAlias = Mapping[str, Any]

# The columns of layers that come first.
_LEADING = ("layer", "precision")
# What plans are compared by, beside the metric.
_MEASURED = ("latency", "size", "memory")


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its title.
        header: Titles of the columns; empty where there are none.
        rows: The cells.
        text: What stands above the table.
        pictures: SVG elements that a page shows between them.
    """

    title: str
    rows: Sequence[Sequence[str]] = ()
    header: Sequence[str] = ()
    text: str = ""
    pictures: Sequence[str] = ()


def sections(
    manifest: Record, plan: Record, steps: Sequence[Record], others: Mapping[str, Record] = MappingProxyType({})
) -> list[Section]:
    """The sections of the report on a compiled model.

    Args:
        manifest: What manifest.json holds.
        plan: What plan.json holds.
        steps: What steps.json lists.
        others: What the plans of further variants hold, by the variants' names.
    """
    answers = [*plan.get("steps", ()), *plan.get("declined", ())]
    found = [
        _target(manifest),
        _resources(manifest),
        _library(manifest),
        _variants(manifest),
        _family(plan),
        _points(plan),
    ]
    for answer in answers:
        if answer.get("findings"):
            found += _findings(answer)
    found.append(_steps_of("Passes that changed the model", plan))
    for name, other in others.items():
        for answer in other.get("steps", ()):
            found += _findings(answer, f"{name}: ") if answer.get("findings") else ()
        found.append(_steps_of(f"Passes that changed the variant {name}", other))
    found += [
        Section(
            "Passes with nothing (more) to do",
            [(a["pass"], a["stage"], a["reason"]) for a in plan.get("declined", ())],
            ("pass", "stage", "why"),
        ),
        Section("Places that passes left alone", list(_refusals(answers)), ("pass", "place", "why")),
        *(
            Section(
                f"Steps of a run of {variant}" if variant else "Steps of a run",
                [_step(step) for step in group],
                ("step", "kernel family", "computes with", "shape", "MFLOP", "ms", "algorithm", "passed over", "nodes"),
            )
            for variant, group in groupby(steps, lambda step: step.get("variant"))
        ),
    ]
    return [section for section in found if section.rows or section.text]


def _target(manifest: Record) -> Section:
    target = manifest["target"]
    rows = [("name", target["name"]), ("description", target.get("description", "")), ("triple", manifest["triple"])]
    for part in ("cpu", "memory", "policy", "budget"):
        rows += [(f"{part}: {name}", _plain(value)) for name, value in target.get(part, {}).items()]
    return Section("Target", [row for row in rows if row[1]])


def _resources(manifest: Record) -> Section:
    score = manifest.get("score", {"ratings": ()})
    rows = [
        (
            rating["resource"],
            f"{rating['weight']:.2f}",
            "" if rating["value"] is None else f"{rating['value']:.2f}",
            rating["figure"],
        )
        for rating in score["ratings"]
    ]
    text = f"Of 1, a server, the target scores {score['value']:.2f}." if rows else ""
    return Section("Resources", rows, ("resource", "weight", "rating", "figure"), text)


def _family(plan: Record) -> Section:
    rows = [(member["model"], member["why"]) for member in plan.get("family", ())]
    return Section("Larger models of the family", rows, ("model", "why it does not fit"))


def _points(plan: Record) -> Section:
    """Plans that were tried, or what was planned beside the model as it is."""
    points = plan.get("points", ())
    rows = [
        (
            label(point),
            *(format_amount(resource, point[resource]) for resource in _MEASURED),
            _plain(point["drop"]),
            "taken" if point["taken"] else "on the front" if point["on the front"] else "",
        )
        for point in points
    ]
    pictures = [picture(points, resource) for resource in _MEASURED] if rows else []
    header = ("plan", *_MEASURED, "drop", "")
    return Section("Plans: what they take, and what the metric drops", rows, header, pictures=pictures)


def _library(manifest: Record) -> Section:
    memory = manifest["memory"]
    return Section(
        "Library",
        (
            ("size", format_bytes(manifest["library"]["bytes"])),
            ("of which weights", format_bytes(memory["weights_bytes"])),
            ("arena of an instance", format_bytes(memory["arena_bytes"])),
            ("peak of one instance, weights included", format_bytes(memory["peak_bytes"])),
        ),
    )


def _variants(manifest: Record) -> Section:
    rows = [
        (
            variant["name"],
            f"{variant['seconds'] * 1e3:.4g}",
            *(format_bytes(variant["memory"][f"{part}_bytes"]) for part in ("arena", "weights", "peak")),
            f"{variant['target']['name']} ({variant['target']['cpu']['name']})",
            ", ".join(step["pass"] for step in variant["passes"] if not step["exact"]),
        )
        for variant in manifest.get("variants", ())
    ]
    header = ("variant", "ms on one thread", "arena", "weights read", "peak", "target", "approximate passes")
    return Section("Variants, the best first", rows, header)


def _steps_of(title: str, plan: Record) -> Section:
    rows = [
        (step["pass"], step["stage"], "exact" if step["exact"] else "approximate", step["reason"])
        for step in plan.get("steps", ())
    ]
    return Section(title, rows, ("pass", "stage", "", "why"))


def _findings(answer: Record, variant: str = "") -> Iterator[Section]:
    """What an approximate pass found: the metric, what is taken before and after, layers, or groups of channels."""
    findings, title = answer["findings"], variant + str(answer["pass"]).replace("_", " ").capitalize()
    rows = [(name, _plain(value)) for name, value in findings.get("metric", {}).items()]
    for when in ("before", "after"):
        rows += [
            (f"{resource} {when}", format_amount(resource, taken)) for resource, taken in findings.get(when, {}).items()
        ]
    yield Section(title, rows, text=answer["reason"])
    for part, what in (("layers", "layers, the one that suffers most first"), ("groups", "groups of channels")):
        if findings.get(part):
            cells = [_columns(each) for each in findings[part]]
            header = list(dict.fromkeys(column for cell in cells for column in cell))
            yield Section(f"{title}: {what}", [[cell.get(column, "") for column in header] for cell in cells], header)


def _columns(layer: Record) -> dict[str, str]:
    """The cells of a layer by their columns; a mapping has a column for each of its keys."""
    cells: dict[str, str] = {}
    for name, value in sorted(layer.items(), key=lambda item: item[0] not in _LEADING):
        if isinstance(value, Mapping):
            cells |= {f"{name}, {key}": _plain(each) for key, each in value.items()}
        elif value is not None:
            cells[name] = _plain(value)
    return cells


def _refusals(answers: Sequence[Record]) -> Iterator[tuple[str, str, str]]:
    for answer in answers:
        for refusal in answer["refusals"]:
            place, colon, why = refusal.partition(": ")
            yield answer["pass"], place if colon else "", why if colon else refusal


def _step(step: Record) -> tuple[str, ...]:
    choice = step["choice"] or {"taken": "", "passed_over": ()}
    return (
        str(step["number"]),
        step["family"],
        " x ".join(dict.fromkeys(operand["dtype"] for operand in step.get("inputs", ()))),
        ", ".join("x".join(map(str, operand["shape"])) for operand in step.get("outputs", ())),
        f"{step['operations'] / 1e6:.3f}",
        f"{step['seconds'] * 1e3:.4f}" if step.get("seconds") is not None else "",
        choice["taken"],
        "; ".join(choice["passed_over"]),
        ", ".join(step["nodes"]),
    )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
