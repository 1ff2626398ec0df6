from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from lepton_compile.errors import CalibrationError
from lepton_compile.evaluation.samples import read_samples
from lepton_compile.model import Graph


def parsed(text):
    made = Graph.from_model(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text))
    made.infer_shapes()
    return made


@pytest.fixture
def graph():
    return parsed("g (float[1,2] x, float[1,2] y) => (float[1,2] z) { z = Add(x, y) }")


@pytest.fixture
def single():
    return parsed("g (float[1,2] x) => (float[1,2] z) { z = Relu(x) }")


X = np.arange(6, dtype=np.float32).reshape(3, 2)


def both(array):
    return {"x": array, "y": array + 1}


def test_all_that_may_be_given_gives_the_same_samples(graph, single, tmp_path):
    np.savez(tmp_path / "all.npz", **both(X))
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, row in enumerate(X):
        np.savez(folder / f"{number}.npz", **both(row[None]))
    given = [
        both(X),
        both(X[:, None]),
        tmp_path / "all.npz",
        folder,
        (both(row[None]) for row in X),
        lambda: [both(row[None].astype(np.float64)) for row in X],
    ]
    for data in given:
        samples = list(read_samples(data, graph))
        assert [sample.inputs["y"].tolist() for sample in samples] == [[row.tolist()] for row in X + 1]
        assert all(sample.inputs["x"].dtype == np.float32 and sample.label is None for sample in samples)
    np.save(tmp_path / "x.npy", X)
    for data in (X, tmp_path / "x.npy", [row[None] for row in X]):
        assert [sample.inputs["x"].tolist() for sample in read_samples(data, single)] == [[row.tolist()] for row in X]


def test_labels_come_with_arrays_and_with_pairs(graph):
    stacked = both(X) | {"labels": np.array([4, 5, 6])}
    assert [sample.label for sample in read_samples(stacked, graph)] == [4, 5, 6]
    pairs = [(both(row[None]), number) for number, row in enumerate(X)]
    assert [sample.label for sample in read_samples(pairs, graph)] == [0, 1, 2]


def failing():
    yield both(X[:1])
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X}, "lacks the input 'y'"),
        (both(X) | {"q": X}, "has 'q'"),
        ({"x": X, "y": X[:2]}, "different numbers"),
        (both(X.reshape(2, 3)), "has shape \\[2, 3\\]"),
        ([both(X[:2])], "sample 0: 'x' has shape \\[2, 2\\] instead of \\[1, 2\\]"),
        ([both(X[:1]), both(X[:1] * np.nan)], "sample 1: 'x' holds NaN"),
        ([both(X[:1] + 1j)], "complex.*, which does not fit"),
        ([], "there is no calibration data"),
        ([both(X[:1])] * 3, "the same one over and over"),
        ([both(X[:1])], "is one sample"),
        (X, "the model has 2 inputs"),
        (failing, "failed: OSError: the disk is gone"),
        ("nowhere.npz", "there is no calibration data at nowhere.npz"),
        (7, "is int"),
        ([(both(X[:1]), 1, 2)], "a tuple of 3"),
        (both(X) | {"labels": np.array([4, 5])}, "2 labels for 3 samples"),
    ],
)
def test_what_cannot_be_used_says_why(graph, data, message):
    with pytest.raises(CalibrationError, match=message):
        list(read_samples(data, graph))


def test_files_that_are_no_arrays(single, tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(CalibrationError, match="cannot read"):
        list(read_samples(tmp_path / "a.npz", single))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="has no"):
        list(read_samples(tmp_path / "empty", single))


def test_what_is_no_numpy_file_is_called_so(single, tmp_path):
    file = tmp_path / "text.npz"
    file.write_text("no arrays")
    with pytest.raises(CalibrationError, match="in no format of numpy's") as caught:
        list(read_samples(file, single))
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: 1 / 0, "could not be made: ZeroDivisionError"),
        (lambda needed: [], "could not be made: TypeError"),
        ({"x": [[1.0, 2.0], [3.0]]}, "'x' is no array"),
        ([[[1.0, 2.0], [3.0]]], "sample 0: 'x' is no array"),
    ],
)
def test_data_that_raises_or_is_ragged(single, data, message):
    with pytest.raises(CalibrationError, match=message):
        list(read_samples(data, single))


def test_an_input_may_be_called_labels():
    graph = parsed("g (float[1,2] labels) => (float[1,2] z) { z = Relu(labels) }")
    samples = list(read_samples({"labels": X}, graph))
    assert [sample.label for sample in samples] == [None] * 3
    assert np.array_equal(np.concatenate([sample.inputs["labels"] for sample in samples]), X)
