"""A picture of plans that were tried: what each drops of the metric over what it takes, and the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lepton_compile.reporting.quantities import format_amount

Record = Mapping[str, Any]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 560, 320, 70, 45, 20
# Okabe and Ito's palette, which colour-blind people can tell apart.
_TAKEN, _FRONT, _BEATEN = "#d55e00", "#0072b2", "#bbbbbb"
_TICKS = 4


def picture(points: Sequence[Record], resource: str) -> str:
    """An SVG element.

    Args:
        points: Plans, as plan.json has them.
        resource: What lies along: "latency", "size" or "memory".
    """
    most = max(point[resource] for point in points) or 1.0
    worst = max(point["drop"] for point in points) or 1.0
    width, height = _WIDTH - _LEFT - _MARGIN, _HEIGHT - _BOTTOM - _MARGIN

    def place(point: Record) -> tuple[float, float]:
        return _LEFT + width * point[resource] / most, _MARGIN + height * (1 - max(point["drop"], 0.0) / worst)

    parts = []
    for tick in range(_TICKS + 1):
        x, y = _LEFT + width * tick / _TICKS, _MARGIN + height * (1 - tick / _TICKS)
        parts += [
            f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{worst * tick / _TICKS:.3g}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{escape(format_amount(resource, most * tick / _TICKS))}</text>",
        ]
    front = sorted((place(point) for point in points if point["on the front"]), key=lambda each: each[0])
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_FRONT}"/>')
    for point in sorted(points, key=lambda each: (each["taken"], each["on the front"])):
        x, y = place(point)
        colour = _TAKEN if point["taken"] else _FRONT if point["on the front"] else _BEATEN
        told = f"{label(point)}: {format_amount(resource, point[resource])}, drop {point['drop']:.4g}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if point["taken"] else 4}" fill="{colour}">'
            f"<title>{escape(told)}</title></circle>"
        )
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(resource)}; upwards the drop of the metric</text>')
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="11" role="img" aria-label="plans by {escape(resource)}">'
    return "\n".join([head, *parts, "</svg>"])


def label(point: Record) -> str:
    """What a plan is called, or what its passes were told."""
    settings = ", ".join(f"{name} = {value}" for name, value in point["settings"].items())
    return str(point.get("name") or settings or "by rule")
