"""Nets trained on digits and pruned to half of their multiply-adds, beside what else has so many.

    python benchmarks/pruning.py [--nets lenet,unet] [--seeds 2] [--seconds S] [--json FILE]

Each net is trained (`tests/corpus/training.py`), and pruned in these ways; what is printed are points of accuracy on
digits that nothing else saw, of the U-Net those of the mean Jaccard index, as means over the seeds:

- ours: by multiply-adds, what is left making up for what goes, on digits without labels;
- plain: channels of the least L1 norm go and nothing makes up for them, at the better of two choices of widths: the
  same share of every group, or those that ours has;
- from nothing: a net of the widths that ours has, trained with labels as the original was.

Then the original of the first seed and a net that is pruned until a run is so much faster as --faster says, on this
machine with one thread, and takes half of the multiply-adds too, are compiled and run in turns
(`lepton_compile/measuring/turns.py`). What is printed is the ratio of their medians, and what that net is worth.

`pip install -e '.[test,train]'`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

from corpus import plain_pruning  # noqa: E402 (found through the line above)
from corpus.digits import digits, worth  # noqa: E402
from corpus.models import trained_path  # noqa: E402
from corpus.multiplications import multiplications  # noqa: E402
from lepton_compile.passes.channel_pruning import ChannelPruning  # noqa: E402

import lepton_compile  # noqa: E402
from lepton_compile.evaluation.contract import Contract  # noqa: E402
from lepton_compile.evaluation.metrics import metric_of  # noqa: E402
from lepton_compile.measuring.machine import describe_machine  # noqa: E402
from lepton_compile.measuring.turns import Latency, take_turns  # noqa: E402
from lepton_compile.model import Graph, import_model  # noqa: E402
from lepton_compile.planning.adapt import choose_passes  # noqa: E402
from lepton_compile.pruning.groups import weights_of  # noqa: E402
from lepton_compile.pruning.planning import Planner, Pruned  # noqa: E402
from lepton_compile.pruning.repair import apply  # noqa: E402
from lepton_compile.rewriting import Stage  # noqa: E402
from lepton_compile.rewriting.limits import Limit, Resource  # noqa: E402
from lepton_compile.rewriting.manager import run_passes  # noqa: E402
from lepton_compile.rewriting.passes import Context  # noqa: E402
from lepton_compile.target import resolve_target  # noqa: E402
from lepton_compile.tuning import Workbench  # noqa: E402

NETS = ("lenet", "resnet", "mobilenet", "densenet", "unet", "se_resnet", "mlp", "transformer", "gru")
SAMPLES = 3500
# Channels go by so many where multiply-adds are counted, which know nothing of vectors.
LANES = 4


@dataclass(frozen=True)
class Accuracies:
    """What a net is worth at half of its multiply-adds; shares of one.

    Attributes:
        original: Before.
        ours: What is left, with what makes up for what went.
        plain: By L1 norms alone.
        from_nothing: A net of our widths, trained like the original.
        share: Of the multiply-adds, what ours takes.
        widths: How many channels of each group ours has.
    """

    original: float
    ours: float
    plain: float
    from_nothing: float
    share: float
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Speed:
    """A net that is pruned for latency.

    Attributes:
        original: Seconds of a run of the original.
        pruned: Seconds of a run of what is left.
        share: Of the multiply-adds, what it takes.
        worth: What it is worth.
        parameters: How many weights it has.
    """

    original: Latency
    pruned: Latency
    share: float
    worth: float
    parameters: int

    @property
    def times_faster(self) -> float:
        """The ratio of the medians."""
        return self.original.median / self.pruned.median


@dataclass(frozen=True)
class Result:
    """What was measured of one net.

    Attributes:
        parameters: How many weights the original has.
        multiplications: How many multiply-adds.
        accuracies: By seeds.
        speed: Of the first seed; None where it was not asked for, or nothing is so fast.
    """

    parameters: int
    multiplications: float
    accuracies: tuple[Accuracies, ...]
    speed: Speed | None

    def mean(self, of: Callable[[Accuracies], float]) -> float:
        """A mean over the seeds."""
        return statistics.fmean(map(of, self.accuracies))


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help="which nets, with commas (default all)")
    parser.add_argument("--seeds", type=int, default=2, help="how many times each is trained (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="to time a net for; 0: not (default %(default)s)")
    parser.add_argument(
        "--faster", type=float, default=1.6, help="what pruning for latency aims at (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    names = arguments.nets.split(",")
    if unknown := sorted(set(names) - set(NETS)):
        parser.error(f"there is no net {', '.join(unknown)}; there are {', '.join(NETS)}")

    progress = Console(stderr=True)
    results: dict[str, Result] = {}
    for name in names:
        with progress.status(name):
            results[name] = measure(name, arguments.seeds, arguments.seconds, arguments.faster)
        if arguments.json:  # after each net, so that nothing is lost
            nets = {each: asdict(result) for each, result in results.items()}
            record = {"machine": describe_machine(), "samples": SAMPLES, "nets": nets}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    Console().print(accuracy_table(results), speed_table(results))


def measure(name: str, seeds: int, seconds: float, faster: float) -> Result:
    """One net in all ways."""
    graph = first_passes(import_model(trained_path(name)))
    return Result(
        parameters(graph),
        plain_pruning.total(multiplications(graph).values()),
        tuple(accuracies(name, seed) for seed in range(seeds)),
        speed(name, graph, seconds, faster) if seconds else None,
    )


def accuracies(name: str, seed: int) -> Accuracies:
    """What becomes of a net at half of its multiply-adds."""
    graph = first_passes(import_model(trained_path(name, seed=seed)))
    whole = plain_pruning.total(multiplications(graph).values())
    found = planner(graph, LANES, multiplications).within([whole / 2])
    if not isinstance(found, Pruned):
        raise RuntimeError(f"{name}: {found.reason}")
    ours, widths = pruned(graph, found), widths_of(found)
    plain = (plain_pruning.uniform(graph, whole / 2), plain_pruning.of_widths(graph, widths))
    small = first_passes(import_model(trained_path(name, widths, seed)))
    if multiplications(small) != multiplications(ours):
        raise RuntimeError(f"{name}: of widths {widths}, the net from nothing has other multiply-adds than ours")
    return Accuracies(
        worth_of(name, graph),
        worth_of(name, ours),
        max(worth_of(name, each) for each in plain),
        worth_of(name, small),
        plain_pruning.total(multiplications(ours).values()) / whole,
        widths,
    )


def speed(name: str, graph: Graph, seconds: float, faster: float) -> Speed | None:
    """A net pruned until a run takes so much less time, and at most half of the multiply-adds."""
    target = resolve_target("host")
    bench = Workbench(target, name, passes=None, tuning=None, exact_order=False, progress=lambda line: None)
    planning = planner(graph, target.vector_bytes // 4, bench.seconds)
    whole = plain_pruning.total(multiplications(graph).values())
    budget = plain_pruning.total(bench.seconds(graph).values()) / faster
    while True:
        found = planning.within([budget])
        if not isinstance(found, Pruned):
            return None
        ours = pruned(graph, found)
        share = plain_pruning.total(multiplications(ours).values()) / whole
        if share <= 0.5:
            break
        budget *= min(0.97, 0.5 / share)
    models = [lepton_compile.compile(each.to_model(), "host", threads=1) for each in (graph, ours)]
    feed = {tensor.name: digits()[1].images[:1] for tensor in graph.gs.inputs}
    runs: dict[str, Callable[[], object]] = {}
    for engine, model in zip(("original", "pruned"), models, strict=True):
        instance, prepared = model.create_instance(), model.prepare(feed)
        runs[engine] = lambda instance=instance, prepared=prepared: instance.run(prepared)  # type: ignore[misc]
    taken = take_turns(runs, seconds)
    return Speed(taken["original"], taken["pruned"], share, worth_of(name, ours), parameters(ours))


def first_passes(graph: Graph) -> Graph:
    """What the passes before pruning make of a graph."""
    first = [each for each in choose_passes(None) if each.stage is Stage.CANONICALISE]
    return run_passes(graph, first, resolve_target("host"))[0]


def planner(graph: Graph, lanes: int, measure: Callable[[Graph], Mapping[str, float]]) -> Planner:
    """What prunes a net by digits without labels, whatever that loses."""
    (x,) = graph.gs.inputs
    samples = [{x.name: image[None]} for image in digits()[0].images[:SAMPLES]]
    context = Context(Contract(samples, *metric_of("top1"), 1.0), measure)
    limit = Limit(Resource.LATENCY, math.inf, lambda each: plain_pruning.total(measure(each).values()))
    return Planner(graph, lanes, context, [limit])


def pruned(graph: Graph, found: Pruned) -> Graph:
    """What is left, with what makes up for what went."""
    return apply(found.repair, ChannelPruning(found.removed).run(graph.copy(), Context()))


def widths_of(found: Pruned) -> tuple[int, ...]:
    """How many channels of each group are left."""
    groups = found.findings["groups"]
    assert isinstance(groups, list)
    return tuple(int(group["left"]) for group in groups)


def parameters(graph: Graph) -> int:
    """How many weights nodes read."""
    return sum(weights.values.size for weights in weights_of(graph) if weights.values.dtype.kind == "f")


def worth_of(name: str, graph: Graph) -> float:
    """What a net is worth on the digits to test."""
    session = graph.session()
    (x,), (y,) = graph.gs.inputs, graph.gs.outputs
    return worth(name, lambda image: session.run({x.name: image})[y.name])


def accuracy_table(results: Mapping[str, Result]) -> Table:
    """Points, a row for each net."""
    made = Table(title="Points at half of the multiply-adds")
    made.add_column("net")
    for column in ("weights", "million", "share", "original", "ours", "plain L1", "from nothing", "drop"):
        made.add_column(column, justify="right")
    for name, result in results.items():
        counts = (f"{result.parameters}", f"{result.multiplications / 1e6:.2f}")
        original, ours = result.mean(lambda each: each.original), result.mean(lambda each: each.ours)
        others = (result.mean(lambda each: each.plain), result.mean(lambda each: each.from_nothing))
        points = (f"{100 * value:.2f}" for value in (original, ours, *others, original - ours))
        made.add_row(name, *counts, f"{result.mean(lambda each: each.share):.3f}", *points)
    return made


def speed_table(results: Mapping[str, Result]) -> Table:
    """Latency, a row for each net that was timed."""
    made = Table(title="Pruned for latency")
    made.add_column("net")
    for column in ("original us", "pruned us", "times faster", "share", "weights", "points"):
        made.add_column(column, justify="right")
    for name, result in results.items():
        if (speed := result.speed) is not None:
            medians = (f"{1e6 * each.median:.1f}" for each in (speed.original, speed.pruned))
            figures = (f"{speed.times_faster:.2f}", f"{speed.share:.3f}", f"{speed.parameters}")
            made.add_row(name, *medians, *figures, f"{100 * speed.worth:.2f}")
    return made


if __name__ == "__main__":
    main()
