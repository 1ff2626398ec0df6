"""Metrics: how good a model's answers are, as one number that is larger for better ones.

A metric is any function of two lists of equal length: the model's answers, each a mapping from outputs to arrays, and
what is expected, which is the sample's label where the user gave labels, and else the original model's answer. It
returns a number for all, or one for each sample. The built-in ones give one for each sample:

- "top1": 1 where the largest score has the same index as expected, else 0; over the last axis, and for answers of many
  positions (a text's) the share of those that agree. Labels are indices.
- "cosine": the cosine of the angle between answer and expectation, of the output that has the smallest.
- "relative_error": 1 - ‖a - b‖₂ / ‖b‖₂, of the output that has the largest error.
- "channel_error": the same of each channel on its own, as their mean: for outputs whose channels have units of their
  own, such as a detector's boxes and scores, of which the larger would hide the smaller. Channels lie along axis 1, or
  along the shorter of the two axes behind the batch's.

A mapping from outputs to names of built-in metrics judges each output by its own, and takes the worst of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_compile.errors import CalibrationError

Array: TypeAlias = npt.NDArray[Any]
Answer: TypeAlias = Mapping[str, Array]
Metric: TypeAlias = Callable[[Sequence[Answer], Sequence[Any]], float | Sequence[float]]
OfOutput: TypeAlias = Callable[[Array, Any], float]


def metric_of(choice: str | Mapping[str, str] | Metric | None) -> tuple[str, Metric]:
    """A metric's name for reports, and the metric.

    Raises:
        CalibrationError: There is no such metric.
    """
    if choice is None:
        choice = DEFAULT
    if isinstance(choice, str):
        judge = _built_in(choice)
        return choice, lambda answers, expected: list(map(_worst(judge), answers, expected))
    if isinstance(choice, Mapping):
        judges = {str(output): _built_in(name) for output, name in choice.items()}
        if not judges:
            raise CalibrationError("the metric names no output")
        name = ", ".join(f"{output}: {each}" for output, each in choice.items())
        return name, lambda answers, expected: list(map(_each(judges), answers, expected))
    if not callable(choice):
        raise CalibrationError(f"the metric is {type(choice).__name__}; give a name, names by output, or a function")
    return getattr(choice, "__name__", type(choice).__name__), choice


def top1(answer: Array, expected: Any) -> float:
    """The share of positions whose largest score has the index that is expected."""
    found = answer.argmax(axis=-1)
    wanted = np.asarray(expected)
    if wanted.shape == answer.shape and wanted.dtype.kind == "f":
        wanted = wanted.argmax(axis=-1)
    if wanted.dtype.kind not in "iu" or wanted.size != found.size:
        raise CalibrationError(
            f"a label is {wanted.dtype} of shape {list(wanted.shape)}, and the metric 'top1' takes {found.size} "
            f"{'index' if found.size == 1 else 'indices'}"
        )
    strange = wanted[(wanted < 0) | (wanted >= answer.shape[-1])]
    if strange.size:
        raise CalibrationError(
            f"a label is {strange.flat[0]}, and the metric 'top1' takes indices of {answer.shape[-1]} scores, from 0 "
            "on; give a function for labels that stand for something else"
        )
    return float(np.mean(found.reshape(-1) == wanted.reshape(-1)))


def cosine(answer: Array, expected: Any) -> float:
    """The cosine of the angle between two tensors; 1 where both are zero."""
    one, other = answer.astype(np.float64).reshape(-1), _like(answer, expected).reshape(-1)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other / lengths) if lengths else float(not one.any() and not other.any())


def relative_error(answer: Array, expected: Any) -> float:
    """1 less the relative error; 0 where nothing is expected but zeros, and something else answered."""
    one, other = answer.astype(np.float64), _like(answer, expected)
    difference, length = float(np.linalg.norm(one - other)), float(np.linalg.norm(other))
    return 1.0 if difference == 0 else 1 - difference / length if length else 0.0


def channel_error(answer: Array, expected: Any) -> float:
    """1 less the mean relative error of the channels, each 1 at most: one that is but noise is one of many."""
    wanted = _like(answer, expected)
    if answer.ndim < 2:
        return relative_error(answer, expected)
    axis = channel_axis(answer.shape)
    one, other = (
        np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1) for value in (answer.astype(np.float64), wanted)
    )
    return 1 - float(shares(np.linalg.norm(one - other, axis=1), np.linalg.norm(other, axis=1)).mean())


def channel_axis(shape: Sequence[int]) -> int:
    """The axis of an output of two axes or more that its channels lie along: detectors have them on either side."""
    return 2 if len(shape) == 3 and shape[2] < shape[1] else 1


def shares(parts: Array, wholes: Array) -> npt.NDArray[np.float64]:
    """Parts of wholes, 1 at most, and 1 of what is no number."""
    nothing = np.where(parts == 0, 0.0, 1.0)
    return np.divide(parts, wholes, out=nothing, where=(parts > 0) & (parts < wholes))


def _like(answer: Array, expected: Any) -> npt.NDArray[np.float64]:
    """What is expected, as a tensor of the answer's size."""
    wanted = np.asarray(expected)
    if wanted.size != answer.size or wanted.dtype.kind not in "fiub":
        raise CalibrationError(
            f"a label is {wanted.dtype} of shape {list(wanted.shape)}, and the answer of shape {list(answer.shape)}; "
            "the metric 'top1' is for indices"
        )
    return wanted.astype(np.float64).reshape(answer.shape)


BUILT_IN: Mapping[str, OfOutput] = {
    "top1": top1,
    "cosine": cosine,
    "relative_error": relative_error,
    "channel_error": channel_error,
}
DEFAULT = "cosine"
"""What judges where the user says nothing."""


def _built_in(name: str) -> OfOutput:
    if name not in BUILT_IN:
        raise CalibrationError(f"there is no metric '{name}'; there are {', '.join(BUILT_IN)}, and any function")
    return BUILT_IN[name]


def _worst(judge: OfOutput) -> Callable[[Answer, Any], float]:
    """A judge of whole answers: by their worst output; a label is for the only one."""

    def judged(answer: Answer, expected: Any) -> float:
        if isinstance(expected, Mapping):
            floats = [output for output, value in expected.items() if value.dtype.kind == "f"]
            if not floats:
                raise CalibrationError("the model has no output of floats that could be judged: give a function")
            return min(judge(answer[output], expected[output]) for output in floats)
        if len(answer) != 1:
            raise CalibrationError(f"the model has {len(answer)} outputs and labels are for one: give a function")
        return judge(next(iter(answer.values())), expected)

    return judged


def _each(judges: Mapping[str, OfOutput]) -> Callable[[Answer, Any], float]:
    def judged(answer: Answer, expected: Any) -> float:
        if missing := [output for output in judges if output not in answer]:
            raise CalibrationError(f"the metric names '{missing[0]}', and the outputs are {', '.join(answer)}")
        if not isinstance(expected, Mapping) and len(judges) == 1:
            expected = dict.fromkeys(judges, expected)
        return min(judge(answer[output], expected[output]) for output, judge in judges.items())

    return judged
