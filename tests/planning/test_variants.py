"""Families and variants: the largest model that fits, and plans of one model that a library chooses among."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowering.conftest import Model
from pruning.test_channel_pruning import net, samples

import lepton_compile as lc
from lepton_compile.model import import_model
from lepton_compile.planning.family import largest_first
from lepton_compile.planning.plan import Plan
from lepton_compile.planning.points import Point
from lepton_compile.planning.variants import instruction_sets, spread
from lepton_compile.target import resolve_target

TARGET = "x86-64-v3"
WIDTHS = (16, 64, 32)


def family() -> list[onnx.ModelProto]:
    return [net(width) for width in WIDTHS]


def predicted(width: int) -> float:
    made = lc.compile(net(width), TARGET, tuning="model")
    return math.fsum(step["seconds"] or 0.0 for step in made.steps)


def test_the_largest_that_fits() -> None:
    made = lc.compile(family(), TARGET, tuning="model")
    assert made.manifest["model"]["sha256"] == lc.compile(net(64), TARGET, tuning="model").manifest["model"]["sha256"]
    assert made.plan["family"] == []
    budget = lc.Budget(latency_s=1.01 * predicted(32))
    made = lc.compile(family(), TARGET, tuning="model", budget=budget)
    assert made.manifest["model"]["sha256"] == lc.compile(net(32), TARGET, tuning="model").manifest["model"]["sha256"]
    (over,) = made.plan["family"]
    assert over["why"].startswith("a run takes")
    assert all(step["exact"] for step in made.plan["steps"])


def test_a_larger_one_that_fits_under_the_contract_comes_before_a_smaller_one_as_it_is() -> None:
    budget = lc.Budget(latency_s=0.8 * predicted(64), max_drop=0.5)
    given = iter(samples())  # of which each member reads all
    made = lc.compile(family(), TARGET, tuning="model", budget=budget, calibration=given, metric="relative_error")
    assert any(step["pass"] == "channel_pruning" for step in made.plan["steps"])
    assert made.plan["family"] == []


def test_no_member_fits() -> None:
    with pytest.raises(lc.BudgetError, match=r"no model of the family fits: .*a run takes .*; .*a run takes .*; "):
        lc.compile(family(), TARGET, tuning="model", budget=lc.Budget(latency_s=1e-9))


def test_members_with_other_interfaces() -> None:
    other = Model()
    other.output(other.node("Relu", other.input(1, 3, 16, 16)))
    with pytest.raises(lc.ModelError, match=r"need the same outputs: .* has .*, and .* has "):
        lc.compile([net(16), other.proto()], TARGET)
    with pytest.raises(lc.ModelError, match="at least one"):
        lc.compile([], TARGET)


def test_members_in_order_of_their_weights() -> None:
    graphs = [import_model(each) for each in family()]
    assert largest_first(graphs, ["a", "b", "c"]) == [1, 2, 0]


def test_variants_of_instruction_sets() -> None:
    made = lc.compile(net(16), "x86-64-v4", tuning="model", variants=3)
    assert [variant.name for variant in made.variants] == ["x86_64_v4", "x86_64_v3", "x86_64_v2"]
    seconds = [variant.seconds for variant in made.variants]
    assert seconds == sorted(seconds)
    feed = samples(1)[0]
    ((_, expected),) = import_model(net(16)).run(feed).items()
    ((_, answer),) = made.run(feed).items()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_tuning_file_says_what_each_instruction_set_takes(tmp_path: Path) -> None:
    made = lc.compile(net(16), "x86-64-v4", tuning="model", variants=3)
    warnings.simplefilter("error")
    again = lc.compile(net(16), "x86-64-v4", tuning=made.save(tmp_path / "made") / "tuning.json", variants=3)
    assert made.manifest["library"]["sha256"] == again.manifest["library"]["sha256"]
    chosen = json.loads((made.folder / "tuning.json").read_text())["taken"]
    assert len(chosen) == 3 * len({key.partition(" in ")[0] for key in chosen})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("x86-64-v4-vnni", ["x86_64_v4", "x86_64_v3", "x86_64_v2", "x86_64"]),
        ("x86-64-v2", ["x86_64_v2", "x86_64"]),
        ("cortex-a72", ["cortex_a72"]),
    ],
)
def test_sets_below(target: str, expected: list[str]) -> None:
    assert [name for name, _ in instruction_sets(resolve_target(target), 4)] == expected


def test_variants_under_a_contract() -> None:
    given = {"calibration": samples(), "metric": "relative_error", "tuning": "model"}
    budget = lc.Budget(max_drop=0.6)
    made = lc.compile(net(), TARGET, variants=3, budget=budget, threads=1, **given)
    names = [variant.name for variant in made.variants]
    assert names[:2] == ["full", "fast1"]
    seconds = [variant.seconds for variant in made.variants]
    assert all(later <= 0.9 * earlier for earlier, later in itertools.pairwise(seconds))
    assert made.manifest["variants"][0]["passes"] and all(s["exact"] for s in made.manifest["variants"][0]["passes"])
    assert not all(step["exact"] for step in made.manifest["variants"][1]["passes"])
    # What each costs stands in the plan.
    drops = {point["name"]: point["drop"] for point in made.plan["points"]}
    assert drops["full"] == 0 < drops["fast1"] <= 0.6
    feed = samples(1)[0]
    ((_, exact),) = import_model(net()).run(feed).items()
    ((_, full),) = made.run(feed).items()
    assert made.adapt(latency_s=1.01 * seconds[1]) and made.variant == made.variants[1]
    ((_, fast),) = made.run(feed).items()
    assert np.linalg.norm(full - exact) < 1e-4 * np.linalg.norm(exact) < np.linalg.norm(fast - exact)
    # Its plans make the same library again.
    plans = [Plan.from_json((made.folder / name).read_text()) for name in ("plan.json", "plan-fast1.json")]
    again = lc.compile(net(), TARGET, plan=plans, tuning="model")
    ((_, same),) = again.run(feed).items()
    np.testing.assert_array_equal(same, full)
    assert [variant.name for variant in again.variants] == names[:2]


def test_variants_and_budgets_for_bytes() -> None:
    """The first is the model as it is only where that fits, and there are as many as fit together."""
    given = {"calibration": samples(), "metric": "relative_error", "tuning": "model"}
    whole = lc.compile(net(), TARGET, tuning="model").manifest["library"]["bytes"]
    budget = lc.Budget(max_drop=0.6, size_bytes=int(0.2 * whole))
    made = lc.compile(net(), TARGET, variants=3, budget=budget, threads=1, **given)
    assert made.manifest["library"]["bytes"] <= 0.2 * whole
    assert not all(step["exact"] for step in made.plan["steps"])


def test_a_budget_for_size_that_is_kept_changes_no_kernel() -> None:
    free = lc.compile(net(), TARGET, tuning="model")
    seconds = math.fsum(step["seconds"] or 0.0 for step in free.steps)
    budget = lc.Budget(size_bytes=10**8, latency_s=1.01 * seconds)
    held = lc.compile(net(), TARGET, tuning="model", budget=budget)
    assert [step["kernel"] for step in held.steps] == [step["kernel"] for step in free.steps]


@pytest.mark.parametrize("count", [0, 17, 1.0, True])
def test_counts_of_variants(count: object) -> None:
    with pytest.raises(lc.LeptonError, match="whole number from 1 to 16"):
        lc.compile(net(16), TARGET, variants=count)


def point(latency: float) -> Point:
    return Point({}, {"latency": latency, "size": 1.0, "memory": 1.0}, 1 / latency, Plan())


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(1, 5))
def test_points_are_spread(latencies: list[float], count: int) -> None:
    points = [point(latency) for latency in latencies]
    taken = max(points, key=lambda each: each.taken["latency"])
    found = [each.taken["latency"] for each in spread(points, taken, count)]
    assert found[0] == taken.taken["latency"] and len(found) <= count
    assert all(later <= 0.9 * earlier for earlier, later in itertools.pairwise(found))
    if count > 1 and min(latencies) <= 0.9 * found[0]:
        assert found[-1] == min(latencies) or len(found) > 1
