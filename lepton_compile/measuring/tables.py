"""The tables of a benchmark, as a header and rows of texts: for a terminal, a page, or a document."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from lepton_compile.measuring.bench import OURS, Benchmark
from lepton_compile.measuring.profile import StepTime, together

Rows: TypeAlias = tuple[Sequence[str], list[Sequence[str]]]


def engine_rows(benchmark: Benchmark) -> Rows:
    """Latency of every engine, and how many times faster than it ours is."""
    header = ("engine", "least ms", "median ms", "90 % within ms", "runs", "times ours")
    ours = benchmark.engines[OURS].latency
    rows: list[Sequence[str]] = []
    for name, engine in sorted(benchmark.engines.items(), key=lambda item: item[0] != OURS):
        latency = engine.latency
        if latency is None:
            rows.append((name, "", "", "", "", ""))
            continue
        milliseconds = (f"{value * 1e3:.3f}" for value in (latency.minimum, latency.median, latency.decile_9))
        ratio = "" if ours is None or name == OURS else f"{latency.median / ours.median:.2f}"
        rows.append((name, *milliseconds, str(latency.runs), ratio))
    return header, rows


def family_rows(benchmark: Benchmark) -> Rows:
    """The steps of every kernel family together, and all of them."""
    every = together("all steps", benchmark.steps)
    header = ("family", "steps", *_figures_header(benchmark))
    return header, [
        (family.label, str(family.calls), *_figures(benchmark, family, every))
        for family in (*benchmark.families, every)
    ]


def step_rows(benchmark: Benchmark) -> Rows:
    """Every step in the order in which they ran."""
    every = together("all steps", benchmark.steps)
    header = ("step", "family", *_figures_header(benchmark), "shapes", "nodes")
    return header, [
        (str(number), step.family, *_figures(benchmark, step, every), step.shapes, step.label)
        for number, step in enumerate(benchmark.steps)
    ]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def number(value: float, digits: int) -> str:
    """A number, or nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def known(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of the values that are numbers."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.geometric_mean(numbers) if numbers else math.nan


def _figures_header(benchmark: Benchmark) -> tuple[str, ...]:
    shares = ("of peak", "of roofline") if benchmark.roofline else ()
    return ("us", "share", "GFLOP/s", *shares, "MB moved")


def _figures(benchmark: Benchmark, step: StepTime, every: StepTime) -> tuple[str, ...]:
    shares = (_percent(step.share_of_peak), _percent(step.share_of_roofline)) if benchmark.roofline else ()
    return (
        f"{step.seconds * 1e6:.1f}",
        _percent(step.seconds / every.seconds),
        f"{step.rate / 1e9:.1f}",
        *shares,
        f"{step.moved_bytes / 1e6:.3f}",
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"
