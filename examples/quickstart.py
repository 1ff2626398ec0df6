"""Compile a pretrained model for this machine, run it, and compare answers and latency with onnxruntime.

python examples/quickstart.py [MODEL]          # one of examples/pretrained.py; ppocr-rec by default
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pretrained import PRETRAINED, fetch

import lepton_compile

Arrays = Mapping[str, np.ndarray[Any, Any]]


def main() -> None:
    """Fetch, compile, save, load, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", default="ppocr-rec", choices=[name for name in PRETRAINED if "-w" not in name]
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure (default %(default)s)")
    arguments = parser.parse_args()

    path, shapes = fetch(arguments.model), PRETRAINED[arguments.model].shapes
    print(f"model      {arguments.model}: {path.name}, {path.stat().st_size / 2**20:.1f} MiB")

    begin = time.perf_counter()
    compiled = lepton_compile.compile(path, target="host", shapes=shapes, threads=1)
    folder = Path(f"{arguments.model}.lepton")
    compiled.save(folder)
    print(f"compiled   {folder} in {time.perf_counter() - begin:.1f} s")

    ours = lepton_compile.load(folder, threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    theirs = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = random_inputs(theirs, shapes)
    names = [output.name for output in theirs.get_outputs()]

    def run_theirs() -> Arrays:
        return dict(zip(names, theirs.run(names, dict(inputs)), strict=True))

    print(f"agreement  largest relative error of an output: {relative_error(ours.run(inputs), run_theirs()):.1e}")
    our_time, their_time = alternate(lambda: ours.run(inputs), run_theirs, arguments.seconds)
    print(
        f"latency    lepton_compile {our_time * 1e3:.2f} ms, onnxruntime {their_time * 1e3:.2f} ms (median, 1 thread)"
    )


def random_inputs(session: onnxruntime.InferenceSession, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """An array per input: normally distributed floats, bytes for integers, and 16000, a sampling rate, for a scalar."""
    random = np.random.default_rng(0)
    inputs = {}
    for entry in session.get_inputs():
        shape = shapes.get(entry.name, entry.shape)
        if entry.type == "tensor(float)":
            inputs[entry.name] = random.standard_normal(shape, np.float32)
        elif not shape:
            inputs[entry.name] = np.array(16000, np.int64)
        else:
            inputs[entry.name] = random.integers(0, 256, shape, np.int32)
    return inputs


def relative_error(ours: Arrays, theirs: Arrays) -> float:
    """The largest of ‖ours - theirs‖₂ / ‖theirs‖₂ over the outputs."""
    return max(float(np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])) for name in theirs)


def alternate(ours: Callable[[], object], theirs: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median seconds of both, measured in turn, so that a change of the machine's speed meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 3:
        for run, taken in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
