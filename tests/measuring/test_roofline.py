"""The extremes that a machine is measured by: they compute what they say."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile import resolve_target
from lepton_compile.codegen import generate
from lepton_compile.measuring import roofline
from lepton_compile.measuring.extremes import ACCUMULATORS, MULTIPLY_ADDS, Reading, extremes
from lepton_compile.measuring.roofline import measure_roofline
from lepton_compile.runtime.loader import CompiledModel


@pytest.fixture
def model() -> CompiledModel:
    target = resolve_target("host")
    library = generate(extremes(target.vector_bytes // 4, 4, [Reading(4096, 3), Reading(1000, 5)]), target)
    return CompiledModel(library.folder, keep=library)


def test_they_compute_what_they_say(model: CompiledModel) -> None:
    lanes = resolve_target("host").vector_bytes // 4
    data = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    results = model.run({"factors": np.array([0.5, 1.0], np.float32), "data": data})
    # x becomes x / 2 + 1 until it is 2.
    np.testing.assert_allclose(results["y0"], np.full((4, lanes), 2.0 * ACCUMULATORS))
    start = sum(range(ACCUMULATORS))
    for name, floats, passes in (("y1", 4096, 3), ("y2", 1000, 5)):
        whole = floats // (lanes * ACCUMULATORS) * lanes * ACCUMULATORS
        expected = data[:whole].reshape(-1, lanes).sum(axis=0) + start
        np.testing.assert_allclose(results[name], np.tile(expected, (passes, 1)), rtol=1e-4)
    assert model.steps[0]["operations"] == 2 * 4 * MULTIPLY_ADDS * ACCUMULATORS * lanes


def test_a_roofline_has_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "READ_BYTES", (1 << 16, 1 << 18))
    monkeypatch.setattr(roofline, "READ_TOTAL", 1 << 18)
    monkeypatch.setattr(roofline, "RUNS", 2)
    measured = measure_roofline(resolve_target("host"), threads=2)
    assert measured.peak > 1e8
    assert list(measured.bandwidths) == [1 << 16, 1 << 18]
    assert all(bandwidth > 1e8 for bandwidth in measured.bandwidths.values())
