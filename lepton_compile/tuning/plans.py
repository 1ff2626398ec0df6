"""Plans that were made under a contract, in the user's cache folder: who compiles the same again does not wait again.

An entry is a plan and the times that it rests on, never a sample. Its name is a hash over all that decides: the model,
the target, the data, the metric, what it may drop, the passes, how kernels are chosen, the sources of this package and
the versions of those that compute. Data, metrics and passes without a fingerprint of their own need a key of the
user's, who answers for it that the same key means the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_compile.errors import LeptonError
from lepton_compile.evaluation.fingerprints import add_array, fingerprint_of
from lepton_compile.evaluation.metrics import DEFAULT, Metric
from lepton_compile.evaluation.samples import Data
from lepton_compile.model import Graph
from lepton_compile.planning.adapt import choose_passes
from lepton_compile.planning.plan import Plan
from lepton_compile.rewriting.passes import Pass
from lepton_compile.rewriting.registry import list_passes
from lepton_compile.tuning.cache import cache_folder, sources, write_whole
from lepton_compile.tuning.table import TuningTable
from lepton_compile.tuning.tune import MEASURE, MODEL

if TYPE_CHECKING:
    from lepton_compile.target import Target

FORMAT = 2
# The packages whose arithmetic or code decides beside this one.
_PACKAGES = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "apache-tvm")
# Those that decide where they are installed.
_OPTIONAL = ("torch",)


@dataclass(frozen=True)
class PlanCache:
    """Where one decision is kept.

    Attributes:
        path: Its file; None: nothing is recalled or kept.
    """

    path: Path | None = None

    @property
    def search_folder(self) -> Path | None:
        """Where what a search tries is kept; None: nowhere."""
        return None if self.path is None else self.path.parent.parent / "searches" / self.path.stem

    def recall(self) -> tuple[list[Plan], TuningTable] | None:
        """The plans and the times that they rest on; None where there are none, or the entry is damaged."""
        if self.path is None:
            return None
        try:
            record = json.loads(self.path.read_text("utf-8"))
            if record["format"] != FORMAT or record["sha256"] != _checksum(*record["plans"], record["times"]):
                raise ValueError("it is not what was written")
            return [Plan.from_json(text) for text in record["plans"]], TuningTable.from_json(record["times"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, LeptonError) as error:
            warnings.warn(f"the cached plan {self.path} is ignored, and made anew: {error}", stacklevel=3)
            return None

    def keep(self, plans: Sequence[Plan], times: TuningTable) -> None:
        """Keep the plans of a model's variants; if they cannot be written, warn."""
        if self.path is None:
            return
        texts, told = [plan.to_json() for plan in plans], json.dumps(times.to_record(), sort_keys=True)
        record = {"format": FORMAT, "sha256": _checksum(*texts, told), "plans": texts, "times": told}
        try:
            write_whole(self.path, json.dumps(record))
        except OSError as error:
            warnings.warn(f"the plan cannot be cached in {self.path}: {error}", stacklevel=3)


def plan_cache(
    graph: Graph,
    target: Target,
    *,
    data: Data,
    metric: str | Mapping[str, str] | Metric | None,
    key: str | None,
    passes: Sequence[str | Pass] | None,
    tuning: str | os.PathLike[str],
    exact_order: bool,
    search: float | None = None,
    variants: int = 1,
) -> PlanCache:
    """Where the decision about a graph is kept.

    Args:
        graph: The imported graph.
        target: The target, whose policy says what the metric may drop.
        data: Calibration data.
        metric: What judges.
        key: The user's name for all that has no fingerprint.
        passes: As of `adapt`.
        tuning: "measure", "model", or a tuning file, as `how_to_tune` says.
        exact_order: As of `compile`.
        search: Seconds that a search may take, if there is one.
        variants: How many plans are asked for.

    Raises:
        LeptonError: The tuning file cannot be used.
    """
    folder = cache_folder()
    named = not callable(metric) and all(isinstance(each, str) for each in passes or ())
    data_hash = fingerprint_of(data)
    if folder is None or (key is None and (data_hash is None or not named)):
        return PlanCache()
    facts = {
        "target": target.describe(),
        "data": data_hash,
        "metric": _name(metric),
        "key": key,
        "passes": None if passes is None else [str(each) for each in passes],
        "choices": {each.name: {k: list(v) for k, v in each.choices.items()} for each in choose_passes(passes)},
        "registered": [(each.name, each.distribution, _version(each.distribution)) for each in list_passes()],
        "tuning": tuning if tuning in (MEASURE, MODEL) else TuningTable.read(tuning).to_record(),
        "exact_order": exact_order,
        "search": search,
        "variants": variants,
        "sources": sources(),
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "optional": {package: _version_if_installed(package) for package in _OPTIONAL},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(graph.to_model(weights=False).SerializeToString(deterministic=True))
    for name, weights in graph.large_weights().items():
        digest.update(name.encode())
        add_array(digest, weights)
    return PlanCache(folder / "plans" / f"{digest.hexdigest()[:32]}.json")


def _name(metric: str | Mapping[str, str] | Metric | None) -> object:
    if isinstance(metric, Mapping):
        return sorted((str(output), str(name)) for output, name in metric.items())
    return getattr(metric, "__qualname__", "function") if callable(metric) else metric or DEFAULT


def _version_if_installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution) if distribution else ""


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
