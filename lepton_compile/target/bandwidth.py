"""What all cores together stream from memory, measured in some tenths of a second with numpy alone.

It is the Add of STREAM (McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers", 1995;
https://www.cs.virginia.edu/stream/): c = a + b in double precision, each thread on arrays of its own, ten times, of
which the fastest counts. As there, bytes are those that the program reads and writes, 24 an element; that most caches
read a line before it is written, which is 8 more, does not count. Triad, which is published most often, moves the same.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

_RUNS = 10
_BYTES_AN_ELEMENT = 24

# STREAM's rule: each array is four times as large as all last-level caches together, or has a million elements.
_TIMES_THE_CACHES = 4
_LEAST_ELEMENTS = 10**6

# The longest that threads wait for each other; they do not where the system does not let all of them begin.
_SECONDS = 10


def measure_bandwidth(threads: int, cache_bytes: int, available_bytes: int) -> int | None:
    """Bytes a second, in two digits, since more would not be the same the next time.

    Args:
        threads: How many to measure with; as many as can run at once.
        cache_bytes: The last-level caches that these use, together.
        available_bytes: Memory that may be taken.

    Returns:
        None if it can not be told: there is too little memory for arrays that do not fit the caches.
    """
    elements = max(_LEAST_ELEMENTS, _TIMES_THE_CACHES * cache_bytes // 8)
    elements = min(elements, available_bytes // _BYTES_AN_ELEMENT) // threads
    if elements * threads * 8 < max(cache_bytes, 1):
        return None
    barrier = threading.Barrier(threads, timeout=_SECONDS)
    try:
        arrays = [np.empty((3, elements)) for _ in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            spans = list(pool.map(_add, arrays, [barrier] * threads))
    except (MemoryError, RuntimeError):  # no memory, no more threads, or a barrier that others did not reach
        return None
    runs = zip(*spans, strict=True)
    fastest = min(max(end for _, end in run) - min(start for start, _ in run) for run in runs)
    return _two_digits(int(_BYTES_AN_ELEMENT * elements * threads / fastest))


def _add(arrays: npt.NDArray[np.float64], barrier: threading.Barrier) -> list[tuple[float, float]]:
    """When each run of one thread began and ended."""
    arrays.fill(1.0)  # pages are given at the first touch, near the core that touches
    a, b, c = arrays
    spans = []
    for _ in range(_RUNS):
        barrier.wait()
        start = time.perf_counter()
        np.add(a, b, out=c)  # without the interpreter's lock
        spans.append((start, time.perf_counter()))
    return spans


def _two_digits(number: int) -> int:
    digits = str(number)
    return int(digits[:2].ljust(len(digits), "0"))
