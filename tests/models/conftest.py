"""Pretrained models, compiled once for all tests of a run, and what onnxruntime says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import corpus
import numpy as np
import onnx
import onnxruntime
import pytest
from filelock import FileLock

import lepton_compile
from lepton_compile import CompiledModel
from lepton_compile.evaluation.reference import precise

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, str], CompiledModel]:
    """`compiled(name, target)`: the compiled model; pytest-xdist's workers share what they compile."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    @cache
    def compile(name: str, target: str) -> CompiledModel:
        if not lepton_compile.resolve_target(target).is_host_compatible():
            pytest.skip(f"this machine cannot run {target}")
        folder = root / f"{name}-{target}.lepton"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                path, shapes = corpus.model_path(name), corpus.shapes(name)
                lepton_compile.compile(path, target, shapes=shapes).save(folder)
        return lepton_compile.load(folder)

    return compile


@pytest.fixture(scope="session")
def answers() -> Callable[[str, Feed], Feed]:
    """`answers(name, feed)`: onnxruntime's outputs, where they are precise (`lepton_compile.evaluation.reference`)."""
    return lambda name, feed: _run(_session(name, is_reference=True), feed)


@pytest.fixture(scope="session")
def published_answers() -> Callable[[str, Feed], Feed]:
    """`published_answers(name, feed)`: the outputs of the file as it is, with onnxruntime's own settings."""
    return lambda name, feed: _run(_session(name, is_reference=False), feed)


@lru_cache(maxsize=2)
def _session(name: str, *, is_reference: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    path: Path = corpus.model_path(name)
    source: bytes | Path = path
    if is_reference:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = precise(onnx.load(path)).SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feed: Feed) -> Feed:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
