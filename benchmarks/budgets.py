"""Models under budgets for latency, beside plain pruning by L1 norms to the same latency.

    python benchmarks/budgets.py [--models nudenet,open-nsfw] [--shares 0.75,0.5,0.35] [--json FILE]

A budget is a share of what the exact library takes on one thread. Ours may use all passes and calibrates on real
samples; how much its answers may differ is left open, so that the table tells what each budget costs. Plain pruning
(Li et al., 2017, arXiv:1608.08710) removes the same share of every group, the channels of least norm first, in float32,
until it is as fast, and mends nothing. Both answer samples that neither has seen: what is printed are the errors of the
channels of their outputs (`channel_error`), and of nudenet how many of the original's boxes are found again, with the
same class and half of them in common. That is far less than `benchmarks/quantized.py` asks for.

`pip install -e '.[test]'`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import corpus  # noqa: E402 (found through the line above)
from corpus import agreement  # noqa: E402
from corpus.feeds import Feed  # noqa: E402
from corpus.plain_pruning import of_widths  # noqa: E402
from corpus.samples import MODELS, calibration_feeds, held_out_feeds  # noqa: E402

import lepton_compile  # noqa: E402
from lepton_compile.evaluation.metrics import metric_of  # noqa: E402
from lepton_compile.measuring.machine import describe_machine  # noqa: E402
from lepton_compile.measuring.peers import load_peer  # noqa: E402
from lepton_compile.measuring.tables import markdown, number  # noqa: E402
from lepton_compile.measuring.turns import take_turns  # noqa: E402
from lepton_compile.model import Graph, import_model  # noqa: E402
from lepton_compile.planning.adapt import choose_passes  # noqa: E402
from lepton_compile.pruning.groups import find_groups  # noqa: E402
from lepton_compile.pruning.widths import units_of  # noqa: E402
from lepton_compile.rewriting import Stage  # noqa: E402
from lepton_compile.rewriting.manager import run_passes  # noqa: E402
from lepton_compile.target import resolve_target  # noqa: E402
from lepton_compile.tuning import Workbench  # noqa: E402

# What contracts judge by; others by what `benchmarks/quantized.py` does, to which all boxes of nudenet that are not
# nearly the same are lost.
METRICS = {"nudenet": "channel_error"}
# How often the share that plain pruning leaves is halved.
_BISECTIONS = 6


@dataclass
class Row:
    """What a budget came to.

    Attributes:
        model: The model.
        engine: "exact", "ours" or "plain L1".
        share: The budget, as a share of the exact library's latency.
        latency: Median of a run, in seconds.
        error: Of the answers' channels, as a share of the original's: the mean of all.
        figure: What that means for whoever reads the answers.
        said: What was said about it.
        spent: Seconds that it took to compile.
    """

    model: str
    engine: str
    share: float
    latency: float
    error: float
    figure: str
    said: str = ""
    spent: float = 0.0


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="nudenet,open-nsfw", help="which models, with commas (default %(default)s)")
    parser.add_argument("--shares", default="0.75,0.5,0.35", help="budgets, with commas (default %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="how many calibrate (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="to measure a model for (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    shares = [float(share) for share in arguments.shares.split(",")]
    console, rows = Console(stderr=True), list[Row]()
    for name in names:
        with console.status(name):
            rows += measure(name, shares, arguments.samples, arguments.seconds)
        if arguments.json:
            record = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(*table(rows)))
    for row in rows:
        if row.said:
            print(f"\n{row.model}, {row.share:.0%}: {row.said}")


def measure(name: str, shares: Sequence[float], samples: int, seconds: float) -> list[Row]:
    """Compile exactly, under each budget, and pruned plainly to the same latency; time all of them in turns."""
    path, shapes = corpus.model_path(name), corpus.shapes(name)
    feed = held_out_feeds(name)[0]
    original = load_peer("onnxruntime", path, feed, 1)
    inputs = agreement.INPUTS.get(name, ())
    originals = agreement.answers_of(name, original, inputs=inputs)
    bench = Workbench(
        resolve_target("host"), "plain", passes=None, tuning=None, exact_order=False, progress=lambda line: None
    )
    graph = canonical(name)
    whole = math.fsum(bench.seconds(graph).values())
    models = {("exact", 1.0): lepton_compile.compile(path, "host", shapes=shapes, threads=1)}
    said: dict[tuple[str, float], tuple[str, float]] = {}
    calibration = agreement.labelled(name, calibration_feeds(name, samples), original)
    for share in shares:
        begin = time.perf_counter()
        try:
            ours = lepton_compile.compile(
                path,
                "host",
                shapes=shapes,
                threads=1,
                calibration=calibration,
                metric=METRICS.get(name) or agreement.metric(name),
                budget=lepton_compile.Budget(latency_s=share * whole, max_drop=1e9),
            )
        except lepton_compile.BudgetError as error:
            said["ours", share] = str(error), time.perf_counter() - begin
        else:
            models["ours", share] = ours
            reasons = [f"{step['pass']}: {step['reason']}" for step in ours.manifest["passes"] if not step["exact"]]
            said["ours", share] = "; ".join(reasons), time.perf_counter() - begin
        if (plain := pruned_plainly(graph, bench, share * whole)) is not None:
            models["plain L1", share] = lepton_compile.compile(plain.to_model(), "host", threads=1)
    turns = take_turns({key: lambda model=model: model.run(feed) for key, model in models.items()}, seconds)  # type: ignore[misc]
    rows = []
    _, judge = metric_of("channel_error")
    for key, model in models.items():
        answers = agreement.answers_of(name, lambda feed, model=model: model.run(feed))  # type: ignore[misc]
        error = 1 - float(np.mean(judge(answers, originals)))
        sentence, spent = said.get(key, ("", 0.0))
        rows.append(Row(name, *key, turns[key].median, error, figure(name, answers, originals), sentence, spent))
    missed = said.keys() - models.keys()
    return rows + [Row(name, *key, math.nan, math.nan, "not met", *said[key]) for key in sorted(missed)]


def figure(name: str, answers: Sequence[Feed], originals: Sequence[Feed]) -> str:
    """What answers mean, beside the original's."""
    if name == "nudenet":
        found = agreement.found_again(answers, originals)
        return f"{found.again} of {found.of} boxes, and {found.others} others"
    return agreement.RULES[name](answers, originals).figure


def canonical(name: str) -> Graph:
    """A model as pruning sees it."""
    graph = import_model(corpus.model_path(name), corpus.shapes(name))
    first = [each for each in choose_passes(None) if each.stage is Stage.CANONICALISE]
    return run_passes(graph, first, resolve_target("host"))[0]


def pruned_plainly(graph: Graph, bench: Workbench, budget: float) -> Graph | None:
    """The widest net that is fast enough with the same share of every group; None if none is."""
    structure = find_groups(graph)
    sizes = [len(group.channels) for group in structure.prunable]
    units = units_of(structure, resolve_target("host").vector_bytes // 4)

    def left(share: float) -> Graph:
        widths = [
            max(unit, round(share * size / unit) * unit) if size > unit else size
            for size, unit in zip(sizes, units, strict=True)
        ]
        return of_widths(graph, widths)

    narrow, wide, found = 0.0, 1.0, None
    for _ in range(_BISECTIONS):
        middle = (narrow + wide) / 2
        tried = left(middle)
        if math.fsum(bench.seconds(tried).values()) <= budget:
            narrow, found = middle, tried
        else:
            wide = middle
    return found


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Latencies and what they cost."""
    header = ["model", "budget", "engine", "median ms", "share", "error", "agreement", "compile s"]
    exact = {row.model: row.latency for row in rows if row.engine == "exact"}
    return header, [
        [
            row.model,
            f"{row.share:.0%}",
            row.engine,
            number(row.latency * 1e3, 3),
            number(row.latency / exact[row.model], 2),
            number(row.error, 4),
            row.figure,
            number(row.spent, 0),
        ]
        for row in rows
    ]


if __name__ == "__main__":
    main()
