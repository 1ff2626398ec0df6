"""Turns: everyone runs, the first run of a block does not count, the order changes."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.measuring import turns
from lepton_compile.measuring.engines import measure_engines
from lepton_compile.measuring.turns import Latency, take_turns


def test_a_latency_is_made_of_quantiles() -> None:
    assert Latency.of([3.0, 1.0, 2.0]) == Latency(1.0, 2.0, pytest.approx(2.8), 3)


def test_engines_take_turns_in_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.0)
    order: list[str] = []
    latencies = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.0)
    # Two runs in a block of no length, of which one counts.
    assert "".join(order) == "aabb" + "bbaa" + "aabb" + "bbaa" + "aabb"
    assert {name: latency.runs for name, latency in latencies.items()} == {"a": 5, "b": 5}


def test_who_fails_or_differs_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.0)
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)

    def broken(_inputs: object) -> dict[str, np.ndarray]:
        raise RuntimeError("out of\nmemory")

    def missing() -> None:
        raise RuntimeError("no such operator")

    measured = measure_engines(
        {
            "right": lambda: lambda inputs: {"y": inputs["x"] * 2},
            "without a batch": lambda: lambda inputs: {"y": inputs["x"][0] * 2},
            "wrong": lambda: lambda inputs: {"y": inputs["x"] * 3},
            "broken": lambda: broken,
            "missing": missing,
        },
        {"x": x},
        0.0,
    )
    assert [name for name, engine in measured.items() if engine.counts] == ["right", "without a batch"]
    assert "relative error" in measured["wrong"].problem and measured["wrong"].latency is not None
    assert measured["broken"].problem == "fails: out of memory" and measured["broken"].latency is None
    assert measured["missing"].problem == "fails: no such operator"
    assert measured["right"].latency is not None and measured["right"].latency.runs >= 5


def test_the_expected_answers_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.0)
    x = np.ones(3, np.float32)
    measured = measure_engines({"a": lambda: lambda inputs: {"y": inputs["x"]}}, {"x": x}, 0.0, {"y": x + 1})
    assert not measured["a"].counts
