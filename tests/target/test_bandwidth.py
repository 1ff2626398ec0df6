"""Memory bandwidth is measured where it can be told, and is what STREAM would count."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from lepton_compile.target import bandwidth as module
from lepton_compile.target.bandwidth import measure_bandwidth

MIB = 2**20


def test_bytes_are_those_of_all_threads_in_the_fastest_run(monkeypatch):
    """A memory that takes a 64th of a second the first time, and half of that later."""
    clock, runs = threading.local(), []

    def add(a, b, out):
        assert len({array.ctypes.data for array in (a, b, out)}) == 3
        clock.now = getattr(clock, "now", 0) + (1 / 128 if hasattr(clock, "now") else 1 / 64)
        runs.append((threading.get_ident(), a.nbytes + b.nbytes + out.nbytes))

    monkeypatch.setattr(np, "add", add)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: getattr(clock, "now", 0)))
    measured = measure_bandwidth(threads=2, cache_bytes=MIB, available_bytes=1024 * MIB)
    assert len({thread for thread, _ in runs}) == 2
    assert {size for _, size in runs} == {24 * 10**6 // 2}
    assert measured == 3_000_000_000  # 24 MB in a 128th of a second are 3.07 GB/s


def test_arrays_are_four_times_as_large_as_the_caches(monkeypatch):
    sizes = []
    monkeypatch.setattr(np, "add", lambda a, b, out: sizes.append(out.nbytes))
    measure_bandwidth(threads=1, cache_bytes=16 * MIB, available_bytes=1024 * MIB)
    assert set(sizes) == {64 * MIB}


@pytest.mark.parametrize(("available", "told"), [(0, False), (3 * 16 * MIB - 24, False), (3 * 16 * MIB, True)])
def test_what_fits_the_caches_is_not_taken_for_memory(available, told):
    assert (measure_bandwidth(1, 16 * MIB, available) is not None) == told


def test_this_machines_memory_is_slower_than_its_caches_and_faster_than_a_disk():
    measured = measure_bandwidth(threads=1, cache_bytes=16 * MIB, available_bytes=512 * MIB)
    assert measured is not None
    assert 10**8 < measured < 10**12
    assert set(str(measured)[2:]) == {"0"}


def test_threads_that_can_not_be_had_are_no_error(monkeypatch):
    started = []

    def start(self):
        started.append(self)
        if len(started) > 1:
            raise RuntimeError("can't start new thread")
        begin(self)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    assert measure_bandwidth(threads=2, cache_bytes=MIB, available_bytes=1024 * MIB) is None
