"""Samples: what a user gives to calibrate on and to be judged by, read one at a time and checked.

What may be given, for a model with the inputs x and y:

- a mapping of arrays, {"x": [N, ...], "y": [N, ...]}, and the same in an .npz file: N samples;
- an array alone, for a model of one input;
- a folder: each .npz in it is a sample, and for a model of one input each .npy, in the order of their names;
- an iterable of samples, read once, or a callable that returns one.

A sample of an iterable is a mapping of arrays, an array for a model of one input, or a pair of either and a label,
which is what the metric is handed as the right answer. Arrays by name may hold labels too, under "labels".
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_compile.errors import CalibrationError
from lepton_compile.model import Graph

Array: TypeAlias = npt.NDArray[Any]
Given: TypeAlias = Mapping[str, Any] | Array | tuple[Any, Any]
Data: TypeAlias = (
    Mapping[str, npt.ArrayLike] | Array | str | os.PathLike[str] | Iterable[Given] | Callable[[], Iterable[Given]]
)

LABELS = "labels"
"""The name of the right answers among arrays by name."""


@dataclass(frozen=True)
class Sample:
    """What a model is run on once.

    Attributes:
        inputs: A value for every input, of its type and shape.
        label: The right answer, where the user gave one.
    """

    inputs: Mapping[str, Array]
    label: object = None

    @property
    def nbytes(self) -> int:
        """Size of the inputs."""
        return sum(value.nbytes for value in self.inputs.values())


@dataclass(frozen=True)
class _Input:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def read_samples(data: Data, graph: Graph) -> Iterator[Sample]:
    """Read samples one at a time.

    Args:
        data: See the module.
        graph: What they are for; its inputs have static shapes.

    Raises:
        CalibrationError: There are none, a sample lacks an input or has one too many, has another shape or a type that
            does not fit, holds NaN or infinities, or reading fails; says which and how to mend it.
    """
    inputs = [_Input(each.name, np.dtype(each.dtype), tuple(each.shape)) for each in graph.gs.inputs]
    variation = _Variation()
    number = -1
    for number, given in enumerate(_guarded(_given(data, inputs))):
        sample = _checked(given, inputs, f"sample {number}")
        variation.add(sample)
        yield sample
    if number < 0:
        raise CalibrationError("there is no calibration data: give at least two samples")
    variation.require()


def _given(data: Data, inputs: list[_Input]) -> Iterator[Given]:
    if isinstance(data, str | os.PathLike):
        return _from_path(Path(data), inputs)
    if isinstance(data, Mapping):
        return _unstacked({str(name): _as_array(value, f"'{name}'") for name, value in data.items()}, inputs)
    if isinstance(data, np.ndarray):
        return _unstacked({_single(inputs).name: data}, inputs)
    try:
        made = data() if callable(data) else data
    except Exception as error:
        raise CalibrationError(f"the calibration data could not be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, Iterable):
        raise CalibrationError(f"the calibration data is {type(made).__name__}; give arrays, a file, or an iterable")
    return iter(made)


def _guarded(samples: Iterator[Given]) -> Iterator[Given]:
    """The same samples; an exception of the user's iterator says where it came from."""
    while True:
        try:
            given = next(samples)
        except StopIteration:
            return
        except CalibrationError:
            raise
        except Exception as error:
            raise CalibrationError(f"reading the calibration data failed: {type(error).__name__}: {error}") from error
        yield given


def _from_path(path: Path, inputs: list[_Input]) -> Iterator[Given]:
    if not path.is_dir():
        if not path.exists():
            raise CalibrationError(f"there is no calibration data at {path}")
        if path.suffix == ".npy":
            return _unstacked({_single(inputs).name: _array(path)}, inputs)
        return _unstacked(_arrays(path), inputs)
    files = sorted(file for file in path.iterdir() if file.suffix in (".npy", ".npz"))
    if not files:
        raise CalibrationError(f"the folder {path} has no .npy or .npz files")
    return (given for file in files for given in _from_file(file, inputs))


def _from_file(file: Path, inputs: list[_Input]) -> Iterator[Given]:
    """What a file of a folder holds: a sample, or several of them stacked."""
    return _unstacked(_arrays(file) if file.suffix == ".npz" else {_single(inputs).name: _array(file)}, inputs)


def _array(file: Path) -> Array:
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"cannot read {file} as an array: {_cause(error)}") from error
    if not isinstance(loaded, np.ndarray):
        raise CalibrationError(f"{file} holds several arrays; its name should end in .npz")
    return loaded


def _arrays(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"cannot read {file} as an .npz file of arrays: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What is wrong with a file; numpy's advice to unpickle it is none."""
    return "it is in no format of numpy's" if "pickle" in str(error) else str(error)


def _unstacked(arrays: Mapping[str, Array], inputs: list[_Input]) -> Iterator[Given]:
    """The samples of arrays that hold one after the other, along a first axis of their own or the batch's."""
    labels = None if any(each.name == LABELS for each in inputs) else arrays.get(LABELS)
    _require_names(set(arrays) - ({LABELS} if labels is not None else set()), inputs, "the calibration data")
    parts = {each.name: _parts(arrays[each.name], each) for each in inputs}
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise CalibrationError(f"the calibration data has different numbers of samples: {listed}")
    count = next(iter(counts.values()), 0)
    if labels is not None and (labels.ndim == 0 or len(labels) != count):
        raise CalibrationError(f"there are {labels.size} labels for {count} samples")
    for number in range(count):
        given = {name: part[number] for name, part in parts.items()}
        yield given if labels is None else (given, labels[number])


def _parts(array: Array, of: _Input) -> Array:
    """An array with one value of the input after the other along its first axis."""
    if array.shape == of.shape:
        return array[None]
    if array.shape[1:] == of.shape and array.ndim == len(of.shape) + 1:
        return array
    batch = of.shape[0] if of.shape else 0
    if batch and array.ndim == len(of.shape) and array.shape[1:] == of.shape[1:] and len(array) % batch == 0:
        return array.reshape(-1, *of.shape)
    raise CalibrationError(
        f"the calibration data for '{of.name}' has shape {list(array.shape)}; samples of {list(of.shape)} are "
        "expected, alone or stacked along a first axis"
    )


def _checked(given: Given, inputs: list[_Input], where: str) -> Sample:
    """A sample as the model takes it."""
    label: object = None
    if isinstance(given, tuple):
        if len(given) != 2:
            raise CalibrationError(f"{where} is a tuple of {len(given)}; a pair of inputs and label is expected")
        given, label = given
    if not isinstance(given, Mapping):
        given = {_single(inputs).name: given}
    _require_names(set(map(str, given)), inputs, where)
    return Sample({each.name: _value(given[each.name], each, where) for each in inputs}, label)


def _value(value: Any, of: _Input, where: str) -> Array:
    array = _as_array(value, f"{where}: '{of.name}'")
    if array.shape != of.shape and not (array.size == 1 == int(np.prod(of.shape))):
        raise CalibrationError(f"{where}: '{of.name}' has shape {list(array.shape)} instead of {list(of.shape)}")
    if not np.can_cast(array.dtype, of.dtype, "same_kind"):
        raise CalibrationError(f"{where}: '{of.name}' is {array.dtype}, which does not fit {of.dtype}; convert it")
    made = np.ascontiguousarray(array, of.dtype).reshape(of.shape)
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        raise CalibrationError(f"{where}: '{of.name}' holds NaN or infinities; leave such samples out")
    return made


def _as_array(value: Any, what: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise CalibrationError(f"{what} is no array: {error}") from error


def _require_names(names: set[str], inputs: list[_Input], where: str) -> None:
    expected = {each.name for each in inputs}
    if missing := sorted(expected - names):
        raise CalibrationError(f"{where} lacks the input {_listed(missing)}; it has {_listed(sorted(names)) or 'none'}")
    if extra := sorted(names - expected):
        raise CalibrationError(f"{where} has {_listed(extra)}, and the model's inputs are {_listed(sorted(expected))}")


def _single(inputs: list[_Input]) -> _Input:
    if len(inputs) != 1:
        listed = _listed([each.name for each in inputs])
        raise CalibrationError(f"the model has {len(inputs)} inputs ({listed}): give arrays by their names")
    return inputs[0]


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


class _Variation:
    """Whether anything varies, within samples or between them; ranges of what is constant mean nothing."""

    def __init__(self) -> None:
        self._first: Sample | None = None
        self._varies = False

    def add(self, sample: Sample) -> None:
        if self._varies:
            return
        if self._first is None:
            self._first = sample
        elif any(not np.array_equal(value, self._first.inputs[name]) for name, value in sample.inputs.items()):
            self._varies = True

    def require(self) -> None:
        if not self._varies:
            raise CalibrationError(
                "the calibration data is one sample, or the same one over and over; give at least two that differ, as "
                "one part calibrates and the other judges"
            )
