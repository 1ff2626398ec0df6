"""Convolutions by minimal filtering are taken where they are faster, affordable and allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lowering.conftest import Model, onnxruntimes

import lepton_compile as lc
from lepton_compile.lowering import lower
from lepton_compile.lowering.program import Choice, Program
from lepton_compile.model import import_model
from lepton_compile.target import Budget, resolve_target

# A machine of one thread, so that the choice does not depend on the one that runs the test.
TARGET = resolve_target({"extends": "x86-64-v3", "name": "fixed", "cpu": {"cores": 1}})


@pytest.fixture
def convolution(model: Model) -> Model:
    x = model.input(1, 32, 28, 28)
    model.output(model.node("Conv", x, model.weight(32, 32, 3, 3), pads=[1, 1, 1, 1]))
    return model


def lowered(model: Model, *, budget: Budget | None = None, exact_order: bool = False) -> Program:
    target = replace(TARGET, budget=budget or Budget())
    return lower(import_model(model.proto()), target, "m", exact_order=exact_order)


def only_choice(program: Program) -> Choice:
    (choice,) = program.choices
    return choice


def test_a_large_map_is_filtered_minimally(convolution: Model) -> None:
    choice = only_choice(lowered(convolution))
    assert choice.taken.startswith("winograd 4x4")
    assert choice.error is not None
    assert 0 < choice.error < 1e-5
    assert choice.weights_bytes == 4 * choice.plain_weights_bytes
    assert "direct" in choice.passed_over[0]


def test_exact_order_adds_up_products(convolution: Model) -> None:
    choice = only_choice(lowered(convolution, exact_order=True))
    assert choice.taken.startswith("direct")
    assert choice.passed_over == ("winograd: exact order of sums",)


@pytest.mark.parametrize("kind", ["size_bytes", "memory_bytes"])
def test_a_budget_that_transformed_weights_exceed_leaves_them_out(convolution: Model, kind: str) -> None:
    program = lowered(convolution)
    weights = sum(values.nbytes for values in program.weights.values())
    needed = program.peak_bytes if kind == "memory_bytes" else weights
    met, missed = (lowered(convolution, budget=Budget(**{kind: amount})) for amount in (needed, needed - 1))
    assert only_choice(met).taken.startswith("winograd")
    assert only_choice(missed).taken.startswith("direct")


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (
            Budget(size_bytes=10_000),
            "the weights alone take 36864 bytes, and the budget for the library's size is 10000",
        ),
        (Budget(memory_bytes=10_000), "the budget is 10000"),
    ],
)
def test_an_impossible_budget_says_what_is_needed(convolution: Model, budget: Budget, told: str) -> None:
    with pytest.raises(lc.BudgetError, match=told):
        lowered(convolution, budget=budget)


def test_the_code_counts_too(convolution: Model) -> None:
    with pytest.raises(lc.BudgetError, match="and the budget for its size is 37000"):
        lc.compile(convolution.proto(), budget=Budget(size_bytes=37_000))


def test_code_beside_transformed_weights_makes_them_be_left_out(convolution: Model) -> None:
    """A library that only its code makes too large is built again, without what makes it large."""
    large = lc.compile(convolution.proto(), tuning="model").manifest["library"]["bytes"]
    small = lc.compile(convolution.proto(), tuning="model", budget=Budget(size_bytes=large - 1))
    assert small.manifest["library"]["bytes"] < large
    assert all(choice["taken"].startswith("direct") for choice in small.manifest["choices"])


def test_a_budget_for_latency(convolution: Model) -> None:
    """Without samples nothing is given up: it is kept, or the model is refused with how far it is from it."""
    exact = lc.compile(convolution.proto(), "x86-64-v3", budget=Budget(latency_s=1.0))
    assert not any(step["pass"] == "channel_pruning" for step in exact.plan["steps"])
    with pytest.raises(lc.BudgetError, match=r"takes .*s, and the budget for latency is 0\.001 us; .*calibration"):
        lc.compile(convolution.proto(), "x86-64-v3", budget=Budget(latency_s=1e-9))
    for wrong in (Budget(size_bytes=0), Budget(size_bytes="1MB"), Budget(memory_bytes=-1), Budget(max_drop="1%")):
        with pytest.raises(lc.BudgetError, match=r"a number of bytes above 0|a number of 0 or more"):
            lc.compile(convolution.proto(), budget=wrong)
    with pytest.raises(lc.BudgetError, match="latency_s has to be a number of seconds above 0, and is 0"):
        lc.compile(convolution.proto(), budget=Budget(latency_s=0))


def test_exact_order_keeps_infinities_where_they_are(convolution: Model) -> None:
    """Minimal filtering spreads them over a tile; the direct convolution does what onnxruntime does."""
    proto = convolution.proto()
    ((name, image),) = convolution.inputs.items()
    image = image.copy()
    image[0, 3, 10, 10] = np.inf
    (expected,) = onnxruntimes(proto, {name: image}).values()
    (actual,) = lc.compile(proto, exact_order=True).run({name: image}).values()
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
