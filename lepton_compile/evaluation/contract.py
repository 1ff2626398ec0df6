"""The accuracy contract: samples, a metric, and how much of it a compiled model may lose.

One sample in three is held out: it judges, so which layers change is chosen by it, but no number is ever fitted to it.
The others calibrate. All that leaves this module are statistics; samples are kept in memory alone, and only so many of
them as are allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from lepton_compile.errors import CalibrationError, ModelError
from lepton_compile.evaluation.histogram import Histogram
from lepton_compile.evaluation.metrics import Metric
from lepton_compile.evaluation.samples import Data, Sample, read_samples
from lepton_compile.model import Graph

Array: TypeAlias = npt.NDArray[Any]
Found = TypeVar("Found")

HELD_OUT = 3
"""Of so many samples one is held out."""
KEPT_BYTES = 64 << 20
"""What samples and answers that are held out may take, and others where nothing else is said; of more, ones at equal
distances are kept."""
# What the inner tensors of one run may take, which onnxruntime hands out as copies.
_FETCHED_BYTES = 128 << 20
# Elements of one tensor and sample that go into a histogram; extremes are of all elements.
_COUNTED = 1 << 16


@dataclass
class Statistics:
    """What is known of a tensor's values over all samples that calibrate.

    Attributes:
        histogram: Counts of values.
        lowest: The smallest value at each index of the channel axis.
        highest: The largest value at each index of the channel axis.
        values_of_a_channel: Of how many values these are.
        ends: The smallest and the largest value of each sample.
    """

    histogram: Histogram
    lowest: Array
    highest: Array
    values_of_a_channel: int = 0
    ends: list[tuple[float, float]] = field(default_factory=list)

    def add(self, value: Array, axis: int) -> None:
        """Count a tensor's values in one sample."""
        flat = value.reshape(-1)
        # An odd stride meets every index of axes of even sizes.
        counted = flat[:: -(-flat.size // _COUNTED) | 1]
        ends = float(flat.min()), float(flat.max())
        self.histogram.add(np.append(counted, ends))
        self.ends.append(ends)
        self.values_of_a_channel += value.size // value.shape[axis]
        others = tuple(place for place in range(value.ndim) if place != axis % value.ndim)
        self.lowest = np.minimum(self.lowest, value.min(axis=others))
        self.highest = np.maximum(self.highest, value.max(axis=others))


@dataclass(frozen=True)
class Answered:
    """A sample, and what it is judged by.

    Attributes:
        sample: The sample.
        answer: The original model's answer.
    """

    sample: Sample
    answer: Mapping[str, Array]

    @property
    def expected(self) -> object:
        """The label, or the original's answer where there is none."""
        return self.answer if self.sample.label is None else self.sample.label


@dataclass(frozen=True)
class Judgement:
    """What a metric says of a model, beside the original, on the same samples.

    Attributes:
        original: The metric of the original.
        value: The metric of the model.
        error: Standard error of the difference, by the samples' scatter; by leaving one out at a time (jackknife, Efron
            and Stein 1981) where the metric gives one number for all.
        samples: How many samples judged.
    """

    original: float
    value: float
    error: float
    samples: int

    @property
    def drop(self) -> float:
        """By how much the metric is worse than the original's."""
        return self.original - self.value

    @property
    def expected_drop(self) -> float:
        """By how much it drops, and its standard error: what a contract bounds."""
        return self.drop + self.error

    def __str__(self) -> str:
        return f"{self.value:.4f} of {self.original:.4f} (± {self.error:.4f} on {self.samples} samples)"


class Contract:
    """What approximate passes run under.

    Args:
        data: Samples, as `lepton_compile.evaluation.samples` reads them.
        metric_name: The metric's name, for reports.
        metric: See `lepton_compile.evaluation.metrics`.
        max_drop: The most that the metric may drop, in its own unit.
        kept_bytes: What the samples that calibrate may take, with the original's answers.
    """

    def __init__(
        self, data: Data, metric_name: str, metric: Metric, max_drop: float, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self.metric_name = metric_name
        self.max_drop = max_drop
        self._data: Data | None = data
        self._metric = metric
        self._calibrating = _Kept(kept_bytes)
        self._held_out = _Kept(KEPT_BYTES)
        self._found: dict[object, Any] = {}

    def observe(self, graph: Graph, channel_axes: Mapping[str, int]) -> dict[str, Statistics]:
        """Statistics of inner tensors over the samples that calibrate.

        The first call reads all samples, each once. Later ones see those that were kept.

        Args:
            graph: The graph, of the original's values.
            channel_axes: The float tensors, each with the axis that its channels lie along.

        Raises:
            CalibrationError: The samples cannot be used, or the metric cannot judge the original's answers.
        """
        shapes = {
            tensor.name: tuple(tensor.shape) for tensor in graph.gs.tensors().values() if tensor.shape is not None
        }
        found = {
            name: Statistics(Histogram(), _full(shapes[name][axis], np.inf), _full(shapes[name][axis], -np.inf))
            for name, axis in channel_axes.items()
        }
        outputs = [tensor.name for tensor in graph.gs.outputs]
        try:
            session = graph.session([*outputs, *(name for name in found if name not in outputs)])
        except ModelError as error:
            raise CalibrationError(
                f"the model cannot be judged, only compiled without calibration data: {error}"
            ) from error
        parts = list(_parts({name: 4 * math.prod(shapes[name]) for name in found}))
        for number, sample in enumerate(self._samples(graph)):
            held_out = number % HELD_OUT == 1  # so that of two samples one judges
            if self._data is not None:
                try:
                    answer = session.run(sample.inputs, outputs)
                except ModelError as error:
                    raise CalibrationError(f"the model cannot be run with sample {number}: {error}") from error
                (self._held_out if held_out else self._calibrating).add(Answered(sample, answer))
                if held_out:
                    continue
            for part in parts:
                for name, value in session.run(sample.inputs, part).items():
                    _require_finite(name, value)
                    found[name].add(value, channel_axes[name])
        if self._data is not None:
            self._data = None
            judging = self._held_out.samples
            self._judged([each.answer for each in judging], judging)  # so that a metric that cannot judge fails first
        return found

    def once(self, key: object, find: Callable[[], Found]) -> Found:
        """What is found out by the samples, so that several plans of one model find it out once.

        Args:
            key: What it is known by.
            find: Finds it out.
        """
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    def samples(self, most: int, but: Sequence[Answered] = ()) -> Sequence[Answered]:
        """Samples that calibrate, at most so many, at equal distances.

        Args:
            most: How many.
            but: Some that are left out.
        """
        without = {id(each) for each in but}
        kept = [each for each in self._calibrating.samples if id(each) not in without]
        return kept[:: max(1, -(-len(kept) // most))]

    def judge(self, graph: Graph, on: Sequence[Answered] | None = None) -> Judgement:
        """What the metric says of a graph; minus infinity where NaN or infinities take the places of numbers.

        Args:
            graph: The graph.
            on: The samples to judge by; those that are held out by default.

        Raises:
            CalibrationError: The metric raises, or returns something else than finite numbers.
        """
        judging = self._held_out.samples if on is None else on
        session = graph.session()
        answers = [session.run(each.sample.inputs) for each in judging]
        if any(map(_lost_numbers, answers, judging)):
            original = self._call([each.answer for each in judging], [each.expected for each in judging])
            return Judgement(float(original.mean()), -math.inf, 0.0, len(judging))
        return self._judged(answers, judging)

    def _judged(self, answers: Sequence[Mapping[str, Array]], judging: Sequence[Answered]) -> Judgement:
        """What the metric says of answers to these samples."""
        expected = [each.expected for each in judging]
        original = [each.answer for each in judging]
        value, original_value = self._call(answers, expected), self._call(original, expected)
        count = len(judging)
        if value.size > 1 or count == 1:
            differences = original_value - value
            # One sample tells nothing of how they scatter: it might as well have been none, or twice as much.
            one = float(np.abs(differences).max())
            error = float(differences.std(ddof=1) / math.sqrt(count)) if count > 1 else one
        else:
            error = self._jackknife(answers, original, expected)
        return Judgement(float(original_value.mean()), float(value.mean()), error, count)

    def _jackknife(self, answers: Sequence[Any], original: Sequence[Any], expected: Sequence[Any]) -> float:
        count = len(answers)

        def without(items: Sequence[Any], place: int) -> list[Any]:
            return [*items[:place], *items[place + 1 :]]

        def drop(place: int) -> float:
            left = without(expected, place)
            difference = self._call(without(original, place), left) - self._call(without(answers, place), left)
            return float(difference.item())

        drops = np.array([drop(place) for place in range(count)])
        return float(math.sqrt((count - 1) / count * ((drops - drops.mean()) ** 2).sum()))

    def _call(self, answers: Sequence[Mapping[str, Array]], expected: Sequence[object]) -> npt.NDArray[np.float64]:
        """The metric's numbers: one, or one for each sample."""
        try:
            made: object = self._metric(answers, expected)
            values = np.asarray(made, np.float64).reshape(-1)
        except CalibrationError:
            raise
        except Exception as error:
            raise CalibrationError(f"the metric '{self.metric_name}' raised {type(error).__name__}: {error}") from error
        if values.size not in (1, len(answers)):
            raise CalibrationError(
                f"the metric '{self.metric_name}' returned {values.size} numbers for {len(answers)} samples; return "
                "one for all, or one for each"
            )
        if not np.isfinite(values).all():
            raise CalibrationError(
                f"the metric '{self.metric_name}' returned {made!r:.60}; it has to be a finite number"
            )
        return values

    def _samples(self, graph: Graph) -> Iterable[Sample]:
        if self._data is not None:
            return read_samples(self._data, graph)
        return (each.sample for each in self._calibrating.samples)


def _full(size: int, value: float) -> Array:
    return np.full(size, value, np.float32)


@dataclass
class _Kept:
    """Samples in as much memory as there is for them, at equal distances in the order they came."""

    most_bytes: int
    samples: list[Answered] = field(default_factory=list)
    distance: int = 1
    _seen: int = 0

    def add(self, item: Answered) -> None:
        if self._seen % self.distance == 0:
            self.samples.append(item)
            while len(self.samples) > 2 and sum(map(_nbytes, self.samples)) > self.most_bytes:
                self.samples = self.samples[::2]
                self.distance *= 2
        self._seen += 1


def _lost_numbers(answer: Mapping[str, Array], judging: Answered) -> bool:
    """Whether some of what are numbers in the original's answer are none."""
    return any(
        value.dtype.kind == "f" and not (np.isfinite(value) | ~np.isfinite(judging.answer[name])).all()
        for name, value in answer.items()
    )


def _nbytes(item: Answered) -> int:
    return item.sample.nbytes + sum(value.nbytes for value in item.answer.values())


def _parts(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The tensors in parts that fit into memory together."""
    part: list[str] = []
    total = 0
    for name, size in sizes.items():
        if part and total + size > _FETCHED_BYTES:
            yield part
            part, total = [], 0
        part.append(name)
        total += size
    if part:
        yield part


def _require_finite(name: str, value: Array) -> None:
    if not np.isfinite(value).all():
        raise CalibrationError(f"the model computes NaN or infinities for '{name}' from the calibration data")
