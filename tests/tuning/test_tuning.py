"""Measured choices: files and caches of them, and builds that follow them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lowering.conftest import Model, onnxruntimes

import lepton_compile as lc
from lepton_compile.lowering.choosing import Algorithm, Problem
from lepton_compile.target import resolve_target
from lepton_compile.tuning import TuningTable, cache, measure, tune

DIRECT = Algorithm("direct", 100.0, False, None)
OTHER = Algorithm("direct, another tile", 101.0, False, None)
HEAVY = Algorithm("winograd", 90.0, True, None)
SLOW = Algorithm("slow", 300.0, False, None)
PROBLEM = Problem("a convolution", (DIRECT, OTHER, HEAVY, SLOW), None)


def test_larger_weights_have_to_pay() -> None:
    assert PROBLEM.predicted() is DIRECT
    assert PROBLEM.measured({"direct": 1.0, "winograd": 0.97}) is DIRECT
    assert PROBLEM.measured({"direct": 1.0, "winograd": 0.9}) is HEAVY
    assert PROBLEM.contenders() == (DIRECT, OTHER, HEAVY)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = TuningTable({"key": {"direct": 0.25, "winograd": 0.125}}, {"key": "winograd"})
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps(table.to_record()))
    assert TuningTable.read(path) == table


DAMAGED = [
    "",
    "[]",
    "{}",
    '{"format": 2, "measured": {}, "taken": {}}',
    '{"format": 1, "measured": {"key": {"direct": "fast"}}, "taken": {}}',
    '{"format": 1, "measured": {"key": {"direct": -1}}, "taken": {}}',
    '{"format": 1, "measured": {"key": {"direct": NaN}}, "taken": {}}',
    '{"format": 1, "measured": {}, "taken": {"key": 3}}',
    '{"format": 1, "measured": 3, "taken": {}}',
    "[" * 200_000,
    '{"format": 1, "measured": {"key": {"direct": 1%s}}, "taken": {}}' % ("0" * 400),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.raises(lc.LeptonError, match="cannot be used") as raised:
        TuningTable.read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_cache_is_replaced_with_a_warning(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match="is ignored, and measured anew"):
        assert cache.read_cache(path) == TuningTable()
    table = TuningTable({"key": {"direct": 0.5}}, {"key": "direct"})
    cache.add_to_cache(path, table)
    assert cache.read_cache(path) == table


def test_caches_grow(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tuning.json"
    cache.add_to_cache(path, TuningTable({"one": {"direct": 0.5}}, {"one": "direct"}))
    cache.add_to_cache(path, TuningTable({"two": {"direct": 0.5}}, {"two": "direct"}))
    assert cache.read_cache(path).taken == {"one": "direct", "two": "direct"}


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        cache.add_to_cache(tmp_path / "file" / "tuning.json", TuningTable())


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def proto(model: Model):
    x = model.input(1, 16, 12, 12)
    model.output(model.node("Conv", x, model.weight(24, 16, 3, 3), pads=[1, 1, 1, 1]))
    return model.proto()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path


def taken(compiled: lc.CompiledModel) -> dict[str, str]:
    choices: dict[str, str] = json.loads((compiled.folder / "tuning.json").read_text())["taken"]
    return choices


def test_measured_once_and_remembered(proto, model: Model, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lc.compile(proto, tuning="measure")
    record = json.loads((first.folder / "tuning.json").read_text())
    ((key, name),) = record["taken"].items()
    assert len(record["measured"][key]) > 1
    assert name in record["measured"][key]
    assert list(own_cache.rglob("*.json"))
    monkeypatch.setattr(measure, "measure", lambda *arguments: pytest.fail("it is measured already"))
    second = lc.compile(proto, tuning="measure")
    assert taken(second) == taken(first)
    assert second.manifest["library"]["sha256"] == first.manifest["library"]["sha256"]
    for name, values in onnxruntimes(proto, model.inputs).items():
        np.testing.assert_allclose(second.run(model.inputs)[name], values, rtol=1e-4, atol=1e-5)


def test_a_tuning_file_decides(proto, tmp_path: Path) -> None:
    free = lc.compile(proto, tuning="model")
    ((key, name),) = taken(free).items()
    assert name.startswith("winograd")
    target = resolve_target("host")
    (problem,) = _problems(proto, target)
    other = next(each.name for each in problem.algorithms if each.name.startswith("direct"))
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps(TuningTable({}, {key: other, "another model's": "direct"}).to_record()))
    bound = lc.compile(proto, tuning=path)
    assert taken(bound) == {key: other}
    again = lc.compile(proto, tuning=bound.folder / "tuning.json")
    assert again.manifest["library"]["sha256"] == bound.manifest["library"]["sha256"]
    assert bound.manifest["library"]["sha256"] != free.manifest["library"]["sha256"]


def test_what_a_file_names_wrongly_is_left_to_the_model(proto, tmp_path: Path) -> None:
    free = lc.compile(proto, tuning="model")
    ((key, _),) = taken(free).items()
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps(TuningTable({}, {key: "of another version"}).to_record()))
    with pytest.warns(UserWarning, match="is of another target, version or model: .* 1 of 1 kernels"):
        assert taken(lc.compile(proto, tuning=path)) == taken(free)


def test_a_cache_of_another_machine_is_measured_anew_with_a_warning(proto, own_cache: Path) -> None:
    first = taken(lc.compile(proto, tuning="measure"))
    (key,) = first
    (path,) = own_cache.rglob("*.json")
    path.write_text(json.dumps(TuningTable({key: {"strange": 1e-3}}, {key: "strange"}).to_record()))
    with pytest.warns(UserWarning, match="is of another machine or version"):
        again = taken(lc.compile(proto, tuning="measure"))
    assert again.keys() == first.keys()
    assert TuningTable.read(path).taken == again


def test_other_machines_cannot_be_measured(proto) -> None:
    with pytest.raises(lc.LeptonError, match="cannot be measured on this machine"):
        lc.compile(proto, "cortex-a72", tuning="measure")


def test_the_environment_says_what_is_usual(proto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(tune.DEFAULT_VARIABLE, str(tmp_path / "missing.json"))
    with pytest.raises(lc.LeptonError, match="No such file"):
        lc.compile(proto)


def test_trials_that_crash_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(lc.BuildError, match="measuring kernels failed"):
        measure.least_seconds(tmp_path)


def _problems(proto, target) -> Sequence[Problem]:
    from lepton_compile.lowering import lower
    from lepton_compile.model import import_model

    return lower(import_model(proto), target, "m").problems


def test_what_was_measured_in_exact_order_says_nothing_of_other_builds(proto, own_cache: Path) -> None:
    usual = taken(lc.compile(proto, tuning="measure"))
    exact = taken(lc.compile(proto, tuning="measure", exact_order=True))
    assert not usual.keys() & exact.keys()
    assert taken(lc.compile(proto, tuning="measure")) == usual


def test_a_failed_measurement_is_an_error_only_where_it_was_asked_for(
    proto, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise lc.BuildError("measuring kernels failed")

    monkeypatch.setattr(measure, "measure", fail)
    monkeypatch.delenv(tune.DEFAULT_VARIABLE)
    with pytest.warns(UserWarning, match="chosen by the model of costs"):
        compiled = lc.compile(proto)
    assert taken(compiled) == taken(lc.compile(proto, tuning="model"))
    with pytest.raises(lc.BuildError, match="measuring kernels failed"):
        lc.compile(proto, tuning="measure")


def test_measuring_by_default_does_not_concern_other_machines(proto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tune.DEFAULT_VARIABLE, "measure")
    assert taken(lc.compile(proto, "cortex-a72"))


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", homeless)
    assert cache.cache_file(resolve_target("host")) is None


def test_another_compiler_measures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have algorithms that the one before had not."""
    target = resolve_target("host")
    before = cache.cache_file(target)
    monkeypatch.setattr(cache, "sources", lambda: "another")
    assert cache.cache_file(target) != before
