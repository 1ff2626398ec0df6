"""What metrics cannot judge is refused, not judged somehow."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from lepton_compile.errors import CalibrationError
from lepton_compile.evaluation.contract import Contract
from lepton_compile.evaluation.metrics import metric_of
from lepton_compile.model import Graph

SCORES = {"y": np.array([[0.1, 0.7, 0.2]], np.float32)}


def judged(metric: object, label: object, answer: dict[str, np.ndarray] = SCORES) -> float:
    _, judge = metric_of(metric)  # type: ignore[arg-type]
    (value,) = judge([answer], [label])  # type: ignore[misc]
    return float(value)


@pytest.mark.parametrize("label", [1, np.int64(1), np.array([1]), np.array([[1]], np.uint8), SCORES["y"]])
def test_labels_are_indices_or_scores(label: object) -> None:
    assert judged("top1", label) == 1.0


@pytest.mark.parametrize(
    ("metric", "label", "message"),
    [
        ("top1", np.array([0, 1, 0]), r"int64 of shape \[3\], and the metric 'top1' takes 1 index"),
        ("top1", np.array([0.0, 1.0, 0.0]), r"float64 of shape \[3\], and the metric 'top1' takes 1 index"),
        ("top1", "cat", "takes 1 index"),
        ("top1", 1.0, "takes 1 index"),
        ("top1", 3, "a label is 3, and the metric 'top1' takes indices of 3 scores, from 0 on; give"),
        ("top1", -1, "a label is -1, and"),
        ("cosine", 1, r"the answer of shape \[1, 3\]; the metric 'top1' is for indices"),
        ("relative_error", "cat", "'top1' is for indices"),
        ({}, 1, "names no output"),
    ],
)
def test_labels_that_a_metric_does_not_take(metric: object, label: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        judged(metric, label)


def test_large_channels_hide_no_small_ones() -> None:
    """Of boxes up to 300 and scores up to 1, scores that are all wrong count as much as boxes would."""
    random = np.random.default_rng(0)
    original = random.uniform(0, 1, (1, 6, 50)).astype(np.float32) * np.array([300.0] * 3 + [1.0] * 3)[:, None]
    wrong = original.copy()
    wrong[:, 3:] = 0
    assert judged("relative_error", {"y": original}, {"y": wrong}) > 0.99
    assert judged("channel_error", {"y": wrong}, {"y": original}) == pytest.approx(0.5)
    assert judged("channel_error", {"y": original}, {"y": wrong}) == pytest.approx(0.5)
    assert judged("channel_error", {"y": original}, {"y": original}) == 1
    # One that is nearly nothing is one of six, and one axis has no channels.
    noisy = original.copy()
    noisy[:, 5], original[:, 5] = 1, 1e-6
    assert judged("channel_error", {"y": original}, {"y": noisy}) == pytest.approx(5 / 6)
    assert judged("channel_error", {"y": np.ones(4)}, {"y": np.full(4, 0.5)}) == pytest.approx(0.5)
    assert judged("channel_error", {"y": np.zeros((1, 2))}, {"y": np.zeros((1, 2))}) == 1


def test_channels_lie_on_either_side() -> None:
    """A detector's answers are [1, channels, places] or [1, places, channels]."""
    original = np.random.default_rng(0).uniform(0, 1, (1, 6, 50)) * np.array([300.0] * 3 + [1.0] * 3)[:, None]
    wrong = original.copy()
    wrong[:, 3:] = 0
    pair = {"y": original.transpose(0, 2, 1)}, {"y": wrong.transpose(0, 2, 1)}
    assert judged("channel_error", *pair) == pytest.approx(judged("channel_error", {"y": original}, {"y": wrong}))


def test_what_is_no_number_is_worth_nothing() -> None:
    original = {"y": np.ones((1, 4, 5))}
    assert judged("channel_error", original, {"y": np.full((1, 4, 5), np.nan)}) == 0
    assert judged("channel_error", original, {"y": np.full((1, 4, 5), np.inf)}) == 0
    # Of models: whatever the metric would say of it.
    contract = Contract([{"x": np.full((1, 4), each, np.float32)} for each in (1, 2, 3)], *metric_of("cosine"), 0.5)
    contract.observe(of("Sqrt"), {})
    text = "g (float[1,4] x) => (float[1,4] y) { z = Neg(x) y = Sqrt(z) }"
    made = Graph.from_model(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text))
    made.infer_shapes()
    judgement = contract.judge(made)
    assert judgement.original == 1 and judgement.drop == np.inf


def test_answers_without_floats() -> None:
    indices = {"y": np.array([3])}
    with pytest.raises(CalibrationError, match="no output of floats"):
        judged("cosine", indices, indices)


def of(operator: str) -> Graph:
    text = f"g (float[1,4] x) => (float[1,4] y) {{ y = {operator}(x) }}"
    made = Graph.from_model(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text))
    made.infer_shapes()
    return made


def test_one_sample_tells_nothing_of_how_they_scatter() -> None:
    graph, other = of("Relu"), of("Abs")
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((1, 4)).astype(np.float32)} for _ in range(2)]
    contract = Contract(samples, *metric_of("relative_error"), 0.1)
    contract.observe(graph, {})
    judgement = contract.judge(other)
    assert judgement.samples == 1
    assert judgement.error == judgement.drop > 0
