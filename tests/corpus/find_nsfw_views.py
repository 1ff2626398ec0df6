"""Finds views of photographs whose scores by open-nsfw are spread from sure to sure, and keeps them as numbers.

    PYTHONPATH=tests:examples python -m corpus.find_nsfw_views       # writes tests/corpus/nsfw_views.json

Photographs that may lie in a wheel score next to nothing, and a model that always answers "no" would agree on them.
Crops and changes of light of some score high all the same. Climbing from random views by random steps meets every
score on its way up; of what was met, the views next to evenly spread scores are kept, from many photographs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime

from corpus.feeds import nsfw_pixels
from corpus.models import model_path
from corpus.views import CALIBRATION_PICTURES, HELD_OUT_PICTURES, View, random_view

FILE = Path(__file__).with_name("nsfw_views.json")
CLIMBS = 2  # from each photograph
STEPS = 150
CALIBRATION, HELD_OUT = 100, 48  # how many views are kept


def main() -> None:
    """Search, and write what was found."""
    session = onnxruntime.InferenceSession(model_path("open-nsfw"), providers=["CPUExecutionProvider"])

    def score(view: View) -> float:
        (probabilities,) = session.run(None, {"input:0": nsfw_pixels(view.render(256))})
        return float(probabilities[0, 1])

    kept = {
        "calibration": _spread(_met(CALIBRATION_PICTURES, 1, score), CALIBRATION),
        "held_out": _spread(_met(HELD_OUT_PICTURES, 2, score), HELD_OUT),
    }
    lines = {part: [json.dumps(_told(view, value)) for view, value in views] for part, views in kept.items()}
    parts = (f'"{part}": [\n  {("," + chr(10) + "  ").join(views)}\n ]' for part, views in lines.items())
    FILE.write_text("{\n " + ",\n ".join(parts) + "\n}\n")


def _met(pictures: tuple[str, ...], seed: int, score: Callable[[View], float]) -> list[tuple[View, float]]:
    """The views that climbs from every photograph go through, with their scores."""
    random = np.random.default_rng(seed)
    met = []
    for picture in pictures:
        for _ in range(CLIMBS):
            view = replace(random_view(random, pictures), picture=picture)
            best = score(view)
            met.append((view, best))
            for _ in range(STEPS):
                step = _step(view, random, pictures)
                reached = score(step)
                if reached > best:
                    view, best = step, reached
                    met.append((view, best))
    return met


def _step(view: View, random: np.random.Generator, pictures: tuple[str, ...]) -> View:
    """The view with some of its numbers moved, and at times another mix."""
    if random.random() < 0.1:
        return replace(view, mixed_with=str(random.choice(pictures)), share=round(random.uniform(0.1, 0.5), 3))

    def moved(value: float, by: float, least: float, most: float) -> float:
        step = random.standard_normal() * by if random.random() < 0.5 else 0.0
        return round(float(np.clip(value + step, least, most)), 3)

    return replace(
        view,
        left=moved(view.left, 0.15, 0, 1),
        top=moved(view.top, 0.15, 0, 1),
        side=moved(view.side, 0.1, 0.2, 1),
        light=moved(view.light, 0.1, 0.5, 1.6),
        contrast=moved(view.contrast, 0.1, 0.5, 1.6),
        colour=moved(view.colour, 0.15, 0.0, 2.0),
        blur=moved(view.blur, 0.5, 0, 4),
        noise=moved(view.noise, 2, 0, 15),
        share=moved(view.share, 0.05, 0, 0.5) if view.mixed_with else 0.0,
    )


def _spread(met: list[tuple[View, float]], count: int) -> list[tuple[View, float]]:
    """For evenly spread scores the nearest of what was met, preferring photographs that were not taken yet."""
    taken: dict[View, float] = {}
    for target in np.linspace(0.02, 0.98, count):

        def cost(entry: tuple[View, float], target: float = float(target)) -> float:
            view, value = entry
            return abs(value - target) + 0.005 * sum(other.picture == view.picture for other in taken)

        view, value = min((entry for entry in met if entry[0] not in taken), key=cost)
        taken[view] = value
    return list(taken.items())


def _told(view: View, score: float) -> dict[str, object]:
    """What is not as in a plain view, and the score that the search saw."""
    plain = asdict(View(""))
    return {key: value for key, value in asdict(view).items() if value != plain[key]} | {"score": round(score, 4)}


if __name__ == "__main__":
    main()
