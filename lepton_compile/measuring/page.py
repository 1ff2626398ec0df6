"""A benchmark as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lepton_compile.measuring.bench import Benchmark
from lepton_compile.measuring.profile import StepTime, together
from lepton_compile.measuring.tables import engine_rows, family_rows, step_rows
from lepton_compile.reporting.html import document, table

WIDTH, HEIGHT, LEFT, BOTTOM = 1100, 300, 60, 40
# Okabe and Ito's palette, which colour-blind people can tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def page(benchmark: Benchmark) -> str:
    """The text of an HTML page with the latencies, a chart of the steps, and the tables of families and steps."""
    title = f"{benchmark.name} for {benchmark.target}"
    parts = [
        f"<p>{escape(benchmark.processor)}, {benchmark.threads} thread{'s' if benchmark.threads > 1 else ''}</p>",
        *([f"<p>variant {escape(benchmark.variant)}</p>"] if benchmark.variant else []),
        table(*engine_rows(benchmark)),
    ]
    if benchmark.steps:
        colours = {family.label: COLOURS[min(n, len(COLOURS) - 1)] for n, family in enumerate(benchmark.families)}
        peak = benchmark.roofline.peak if benchmark.roofline else max(step.rate for step in benchmark.steps)
        parts += [
            "<h2>Steps in the order in which they run</h2>",
            "<p>As wide as the step takes time, as high as it computes in a second: the area is work.</p>",
            _chart(benchmark.steps, peak, colours, measured=benchmark.roofline is not None),
            f'<p class="key">{"".join(_key(family, colour) for family, colour in colours.items())}</p>',
            "<h2>Kernel families</h2>",
            table(*family_rows(benchmark)),
            "<h2>Steps</h2>",
            table(*step_rows(benchmark)),
        ]
    if benchmark.note:
        parts.append(f"<p>{escape(benchmark.note)}</p>")
    return document(title, parts)


def _key(family: str, colour: str) -> str:
    return f'<span style="background: {colour}"></span>{escape(family)}'


def _chart(steps: Sequence[StepTime], peak: float, colours: dict[str, str], *, measured: bool) -> str:
    total = together("all", steps).seconds
    width, height = WIDTH - LEFT, HEIGHT - BOTTOM
    bars, begin = [], 0.0
    for step in steps:
        # A step that computes nothing still shows that it takes time.
        tall = max(height * min(step.rate / peak, 1.0), 2.0)
        speed = f"{step.family}: {step.seconds * 1e6:.1f} us, {step.rate / 1e9:.1f} GFLOP/s"
        told = "\n".join(filter(None, (step.label or step.kernel, speed, step.shapes, step.choice)))
        bars.append(
            f'<rect x="{LEFT + width * begin / total:.2f}" y="{height - tall:.2f}" '
            f'width="{width * step.seconds / total:.2f}" height="{tall:.2f}" fill="{colours[step.family]}" '
            f'stroke="white" stroke-width="0.3"><title>{escape(told)}</title></rect>'
        )
        begin += step.seconds
    lines = [
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{height * (1 - part):.1f}" y2="{height * (1 - part):.1f}" stroke="#ccc"/>'
        f'<text x="{LEFT - 6}" y="{height * (1 - part) + 12:.1f}" text-anchor="end">{peak * part / 1e9:.0f}</text>'
        for part in (0.0, 0.5, 1.0)
    ]
    top = "the peak" if measured else "the fastest step"
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" role="img" aria-label="time and speed of every step">',
            *lines,
            *bars,
            f'<text x="{LEFT}" y="{HEIGHT - 10}">GFLOP/s, up to {top}; {total * 1e3:.3f} ms in all</text>',
            "</svg>",
        ]
    )
