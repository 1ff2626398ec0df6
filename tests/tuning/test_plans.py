"""Plans made under a contract are decided once: what counts as the same, what is kept, and what becomes of damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from lepton_compile.passes.quantization import Quantization

import lepton_compile as lc
from lepton_compile.errors import CalibrationError
from lepton_compile.evaluation import contract
from lepton_compile.evaluation.fingerprints import fingerprint_of
from lepton_compile.model import import_model
from lepton_compile.target import resolve_target, with_budget
from lepton_compile.tuning import TuningTable
from lepton_compile.tuning import plans as cache

TARGET = "x86-64-v4-vnni"
DATA = np.random.default_rng(1).standard_normal((12, 32)).astype(np.float32)


def model(seed=0):
    weights = np.random.default_rng(seed).standard_normal((16, 32)).astype(np.float32)
    graph = onnx.parser.parse_graph("g (float[1,32] x) => (float[1,16] y) { y = Gemm<transB=1>(x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "plans"


@pytest.fixture
def decisions(monkeypatch):
    """How often samples were read to decide."""
    made = []
    observe = contract.Contract.observe

    def counted(self, *arguments):
        made.append(self)
        return observe(self, *arguments)

    monkeypatch.setattr(contract.Contract, "observe", counted)
    return made


def compiled(data=DATA, *, seed=0, target=TARGET, drop=0.01, **arguments):
    return lc.compile(model(seed), target, calibration=data, budget=lc.Budget(max_drop=drop), **arguments)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_same_is_decided_once_and_gives_the_same_bytes(decisions):
    first, second = compiled(), compiled()
    assert len(decisions) == 1
    assert files(first.folder) == files(second.folder)


def place(data=DATA, *, seed=0, target=TARGET, drop=0.01, **arguments):
    """Where the decision is kept; None: nowhere."""
    asked = {"metric": None, "key": None, "passes": None, "tuning": "model", "exact_order": False} | arguments
    adapted = with_budget(resolve_target(target), lc.Budget(max_drop=drop))
    return cache.plan_cache(import_model(model(seed)), adapted, data=data, **asked).path


def test_data_is_the_same_by_its_content(tmp_path):
    listed = [row[None] for row in DATA]
    np.savez(tmp_path / "data.npz", x=DATA)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", DATA)
    forms = (DATA, {"x": DATA}, listed, tmp_path / "data.npz", tmp_path / "folder")
    assert len({place(data) for data in forms} - {None}) == len(forms)
    assert place(DATA.copy(order="F")) == place() and place(list(listed)) == place(listed)
    before = place(tmp_path / "data.npz"), place(tmp_path / "folder")
    np.savez(tmp_path / "data.npz", x=changed(DATA))
    np.save(tmp_path / "folder" / "x.npy", changed(DATA))
    assert not {place(tmp_path / "data.npz"), place(tmp_path / "folder")} & set(before)


def changed(array):
    other = array.copy()
    other[3, 3] += 1
    return other


@pytest.mark.parametrize(
    "other",
    [
        {"data": changed(DATA)},
        {"data": {"x": DATA, "labels": np.arange(12) % 16}},
        {"seed": 1},
        {"drop": 0.02},
        {"metric": "relative_error"},
        {"metric": {"y": "cosine"}},
        {"passes": ["quantization", "dead_nodes"]},
        {"exact_order": True},
        {"tuning": "measure"},
        {"key": "again"},
        {"target": {"extends": TARGET, "name": "mine", "cpu": {"cores": 2}}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_is_decided_anew(other):
    assert place(**other) not in (place(), None)


def test_what_is_said_or_left_to_the_default_is_the_same():
    assert place(metric="cosine") == place() == place(seed=0)


def test_other_versions_decide_anew(monkeypatch):
    before = place()
    monkeypatch.setattr(cache, "sources", lambda: "of another version")
    assert place() != before


def test_another_tuning_file_decides_anew(tmp_path):
    places = set()
    for seconds in (1.0, 2.0):
        (tmp_path / "tuning.json").write_text(json.dumps(TuningTable({"a step": {"a": seconds}}).to_record()))
        places.add(place(tuning=tmp_path / "tuning.json"))
        assert place(tuning=str(tmp_path / "tuning.json")) in places
    assert len(places) == 2


def judged(answers, expected):
    return [1.0 - float(np.abs(a["y"] - e["y"]).max()) / 100 for a, e in zip(answers, expected, strict=True)]


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (lambda: iter(list(DATA[:, None])), {}),
        (DATA, {"metric": judged}),
        (DATA, {"passes": [Quantization()]}),
        ([(row[None], object()) for row in DATA], {}),
    ],
    ids=["callable", "metric", "instance", "label"],
)
def test_what_has_no_fingerprint_needs_a_key(data, arguments):
    assert place(data, **arguments) is None
    assert place(data, key="mine", **arguments) == place(data, key="mine", **arguments)
    assert place(data, key="mine", **arguments) != place(data, key="other", **arguments)


def test_a_key_stands_for_a_callable_that_is_not_called_again(decisions):
    def rows():
        calls.append(rows)
        return iter(DATA[:, None])

    calls = []
    first = compiled(rows, metric=judged, key="mine")
    second = compiled(rows, metric=judged, key="mine")
    assert len(calls) == len(decisions) == 1
    assert files(first.folder) == files(second.folder)


def test_an_iterator_is_not_used_up_by_asking(decisions):
    rows = iter(DATA[:, None])
    assert fingerprint_of(rows) is None
    assert len(list(rows)) == len(DATA)


@pytest.mark.parametrize(
    "damage", [lambda text: text[: len(text) // 2], lambda text: text.replace("int8", "int4"), lambda text: "[]"]
)
def test_a_damaged_entry_is_made_anew(decisions, folder, damage):
    compiled()
    (entry,) = folder.iterdir()
    whole = entry.read_text()
    entry.write_text(damage(whole))
    assert entry.read_text() != whole
    with pytest.warns(UserWarning, match="is ignored, and made anew"):
        compiled()
    assert len(decisions) == 2 and entry.read_text() == whole


def test_a_cache_that_cannot_be_written_is_a_warning(decisions, folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be cached"):
        compiled()


def test_no_sample_is_kept(folder):
    marked = DATA.copy()
    marked[:, 5] = 1.2345678
    compiled(marked)
    (entry,) = folder.iterdir()
    assert "1.2345" not in entry.read_text()


def test_errors_keep_nothing(folder):
    with pytest.raises(CalibrationError):
        compiled(DATA * np.nan)
    assert not folder.exists()


def test_a_key_without_data_names_nothing():
    with pytest.raises(CalibrationError, match="give calibration data"):
        lc.compile(model(), TARGET, key="mine")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": np.zeros(2), "b": np.zeros(1)}, {"a": np.zeros(1), "b": np.zeros(2)}),
        ([np.zeros(4)], [np.zeros((2, 2))]),
        ([np.zeros(4)], [np.zeros(4, np.float32)]),
        ([np.zeros(1), np.zeros(1)], [np.zeros(2)]),
        ([(np.zeros(1), 1)], [(np.zeros(1), 2)]),
        ([(np.zeros(1), "docs")], [(np.zeros(1), "tests")]),
        ({0: np.zeros(1)}, {1: np.zeros(1)}),
    ],
)
def test_fingerprints_tell_apart(one, other):
    assert fingerprint_of(one) != fingerprint_of(other)


@pytest.mark.parametrize("data", [[(np.zeros(1), object())], [np.array([object()])], "nowhere.npz", iter([])])
def test_what_has_no_bytes_of_its_own_has_no_fingerprint(data):
    assert fingerprint_of(data) is None
