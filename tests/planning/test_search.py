"""Searching among plans: what is tried, kept, gone on with, and taken."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_compile.passes.channel_pruning import ChannelPruning
from lepton_compile.passes.quantization import Quantization
from pruning.test_channel_pruning import net, samples

import lepton_compile as lc
from lepton_compile.errors import CalibrationError
from lepton_compile.planning.explore import open_choices
from lepton_compile.planning.plan import Plan
from lepton_compile.planning.points import Point, best, front
from lepton_compile.planning.search import search
from lepton_compile.rewriting.limits import Limit, Resource

KNOBS = {"one.a": (0.0, 0.5, 1.0), "two.b": (1, 2, 3, 4), "two.c": ("x", "y")}


def point(settings, latency=1.0, drop=0.0, size=1.0, memory=1.0):
    return Point(settings, {"latency": latency, "size": size, "memory": memory}, drop, Plan())


def evaluated(calls):
    def evaluate(settings):
        calls.append(dict(settings))
        given_up = settings["one.a"] + settings["two.b"] / 4
        return point(settings, 2.0 - given_up, given_up**2)

    return evaluate


def test_all_settings_are_tried_once_where_there_is_time() -> None:
    calls: list[dict[str, object]] = []
    found = search(KNOBS, evaluated(calls), 3600.0)
    assert calls[0] == {"one.a": 0.0, "two.b": 1, "two.c": "x"}  # nothing given up
    assert len(calls) == len(found) == len({json.dumps(each) for each in calls})
    assert len(found) > 12  # of 24; the sampler comes back to good ones, which ends it


def test_a_search_that_is_stopped_goes_on(tmp_path) -> None:
    calls: list[dict[str, object]] = []
    evaluate, stopped = evaluated(calls), dict[str, object]()

    def interrupted(settings):
        if len(calls) == 5:
            stopped.update(settings)
            raise KeyboardInterrupt
        return evaluate(settings)

    with pytest.raises(KeyboardInterrupt):
        search(KNOBS, interrupted, 3600.0, tmp_path)
    before = list(calls)
    found = search(KNOBS, evaluate, 3600.0, tmp_path)
    assert [each for each in calls[5:] if each in before] == []
    assert calls[5:].count(stopped) == 1  # what it was at is not lost
    assert all(any(dict(each.settings) == settings for each in found) for settings in before)
    # One that is done is not begun again.
    count = len(calls)
    assert len(search(KNOBS, evaluate, 1e-9, tmp_path)) == len(found)
    assert len(calls) == count


def test_what_a_killed_search_had_begun_to_write_is_dropped(tmp_path) -> None:
    calls: list[dict[str, object]] = []
    first = search(KNOBS, evaluated(calls), 3600.0, tmp_path)
    with (tmp_path / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker_i')
    assert search(KNOBS, evaluated(calls), 3600.0, tmp_path)[: len(first)] == first


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    calls: list[dict[str, object]] = []
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert search({"one.a": (0.0,), "two.b": (1,), "two.c": ("x",)}, evaluated(calls), 9.0, tmp_path / "file" / "x")


def test_a_plan_that_was_lost_is_made_again(tmp_path) -> None:
    calls: list[dict[str, object]] = []
    search({"one.a": (0.0, 1.0), "two.b": (1,), "two.c": ("x",)}, evaluated(calls), 3600.0, tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text("{")
    count = len(calls)
    search({"one.a": (0.0, 1.0), "two.b": (1,), "two.c": ("x",)}, evaluated(calls), 3600.0, tmp_path)
    assert len(calls) > count


AMOUNTS = st.lists(
    st.tuples(*[st.integers(0, 4).map(float)] * 4).map(lambda four: point({}, *four)), min_size=1, max_size=12
)


@given(AMOUNTS)
def test_the_front_is_what_none_beats(points) -> None:
    found = front(points)
    assert found
    for each in points:
        beaten = any(other.beats(each) for other in points)
        alike = [other for other in found if (other.taken, other.drop) == (each.taken, each.drop)]
        assert len(alike) == (0 if beaten else 1)


@given(AMOUNTS, st.integers(1, 4))
def test_the_best_keeps_its_limits(points, most) -> None:
    limited = [Limit(Resource.LATENCY, float(most), lambda graph: math.nan)]
    fitting = [each for each in points if each.taken["latency"] <= most]
    taken = best(points, limited)
    assert (taken is None) == (not fitting)
    assert taken is None or taken.drop == min(each.drop for each in fitting)
    assert best(points, []).taken["latency"] == min(each.taken["latency"] for each in points)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def file_of(model: onnx.ModelProto, folder):
    onnx.save(model, folder / "net.onnx")
    np.savez(folder / "samples.npz", x0=np.concatenate([each["x0"] for each in samples()]))
    return folder / "net.onnx", folder / "samples.npz"


def test_the_front_of_a_net(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ChannelPruning, "choices", {"left": (1.0, 0.7)})
    monkeypatch.setattr(Quantization, "choices", {"saved": (0.0, 0.5, 1.0)})
    path, data = file_of(net(), tmp_path)
    target, lines = "x86-64-v4-vnni", list[str]()
    arguments = {"calibration": data, "metric": "relative_error", "tuning": "model", "search": 3600.0}
    budget = lc.Budget(max_drop=0.3)
    made = lc.compile(path, target, budget=budget, progress=lambda line, done, total: lines.append(line), **arguments)
    points = made.plan["points"]
    assert len(points) == 7 and points[0]["drop"] <= 0.3
    (taken,) = (each for each in points if each["taken"])
    assert taken["latency"] == min(each["latency"] for each in points) and taken["on the front"]
    exact = next(each for each in points if each["drop"] == 0)
    assert exact["latency"] > taken["latency"]
    assert any(re.match(r"search, \d+ of 3600 s: ", line) for line in lines)
    # Another budget finds all of it there, and takes what costs least.
    tried = [line for line in lines if line.startswith("search")]
    lines.clear()
    half = (exact["latency"] + taken["latency"]) / 2
    budget = lc.Budget(max_drop=0.3, latency_s=half)
    other = lc.compile(path, target, budget=budget, progress=lambda line, done, total: lines.append(line), **arguments)
    (chosen,) = (each for each in other.plan["points"] if each["taken"])
    assert chosen["drop"] == min(each["drop"] for each in other.plan["points"] if each["latency"] <= half)
    assert len(tried) == 6 and not [line for line in lines if line.startswith("search")]
    with pytest.raises(lc.BudgetError, match=r"none keeps the budgets; the nearest: a run takes .*s, and may take"):
        lc.compile(path, target, budget=lc.Budget(max_drop=0.3, latency_s=1e-9), **arguments)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "10s"])
def test_times_of_searches(seconds) -> None:
    with pytest.raises(lc.LeptonError, match="a number of seconds above 0"):
        lc.compile(net(), search=seconds, calibration=samples())


def test_a_setting_that_is_given_is_not_searched() -> None:
    assert open_choices(ChannelPruning()) == ChannelPruning.choices
    assert not open_choices(ChannelPruning(left=0.5))


def test_a_search_needs_samples() -> None:
    with pytest.raises(CalibrationError, match="a search needs them"):
        lc.compile(net(), search=1.0)
